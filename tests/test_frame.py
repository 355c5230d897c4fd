"""The frame around every page: the theme that was chosen, the banner when nothing can be seen."""

from pathlib import Path

import pytest
from in_browser import browsing, serving
from playwright.sync_api import Browser, expect
from web_world import World, embed_all, make_world

from tastemaker import jobs
from tastemaker.database.sessions import writing
from tastemaker.jobs.failures import MEMORY, NO_WEIGHTS, Failure


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, images=3)


def test_the_theme_is_kept_by_the_browser_and_leads_back_to_the_page(world: World) -> None:
    at = f"{world.at}/settings"
    assert "data-theme" not in world.client.get(at).text
    here = {"Referer": f"http://localhost{at}"}
    for theme, next in (("dark", "light"), ("light", "")):
        answer = world.client.post("/theme", data={"theme": theme}, headers=here)
        assert answer.history[0].headers["location"] == at if answer.history else answer.url
        page = world.client.get(at).text
        assert f'data-theme="{theme}"' in page and f'name="theme" value="{next}"' in page
    world.client.post("/theme", data={"theme": ""}, headers=here)
    assert "data-theme" not in world.client.get(at).text
    assert world.client.post("/theme", data={"theme": "pink"}, headers=here).status_code == 422


def test_a_chosen_theme_beats_that_of_the_system(chromium: Browser, world: World) -> None:
    with serving(world) as address, browsing(chromium) as page:
        page.emulate_media(color_scheme="dark")
        page.goto(f"{address}{world.at}/settings")
        colour = "() => getComputedStyle(document.body).backgroundColor"
        by_system = page.evaluate(colour)
        page.get_by_role("button", name="Theme: system").first.click()
        assert page.evaluate(colour) == by_system, "dark was chosen, and is dark"
        page.get_by_role("button", name="Theme: dark").first.click()
        expect(page.get_by_role("button", name="Theme: light").first).to_be_visible()
        assert page.evaluate(colour) != by_system


def test_a_failed_embedding_is_told_on_every_page_with_the_ways_out(world: World) -> None:
    with writing(world.engine) as session:
        job = jobs.enqueue(session, "embed", "Embed", project_id=world.project_id)
        _, claim = jobs.claim_next(session) or (None, None)
        assert claim is not None
        absent = Failure("The weights are not on this machine.", NO_WEIGHTS)
        jobs.fail(session, claim, absent)
    for page in ("score", "library", "review/false-positives", "versions", "settings", "add"):
        text = world.client.get(f"{world.at}/{page}").text
        assert "could not be embedded" in text and "The weights are not on this machine." in text
        assert f'action="/jobs/{job.id}/retry"' in text
        assert f'href="{world.at}/add#encoder"' in text  # nothing is embedded: it may change
    with writing(world.engine) as session:
        jobs.get(session, job.id).cause = MEMORY
    text = world.client.get(f"{world.at}/score").text
    assert "could not be embedded" in text and "#encoder" not in text, "another one would not help"
    embed_all(world)
    assert "could not be embedded" not in world.client.get(f"{world.at}/score").text, "all are"
    world.client.post(f"/jobs/{job.id}/retry")
    assert "could not be embedded" not in world.client.get(f"{world.at}/score").text
