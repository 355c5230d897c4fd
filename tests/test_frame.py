"""The frame around every page: the theme that was chosen, the banner when nothing can be seen."""

import re
from pathlib import Path

import pytest
from in_browser import DESKTOP, PHONE, browsing, serving
from playwright.sync_api import Browser, expect
from web_world import World, add_job, add_version, embed_all, make_world

from tastemaker import images, jobs
from tastemaker.config import DEFAULT_ENCODER
from tastemaker.database.sessions import writing
from tastemaker.database.tables import Project, VersionLabel
from tastemaker.encoding.encoder_specs import BUNDLED
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


def test_every_page_says_how_many_jobs_are_not_finished(world: World) -> None:
    """Also a page that has a job of its own, which is one of them, or is none."""
    embed_all(world)
    pages = ("library", "series", "stars", "write-back", "versions", "publish", "settings")

    def told() -> set[str]:
        texts = [world.client.get(f"{world.at}/{page}").text for page in pages]
        return {n for text in texts for n in re.findall(r'title="unfinished jobs">(.*?)<', text)}

    add_job(world, kind="embed")
    assert told() == {"1"}
    for kind in ("series", "stars", "write-back"):
        add_job(world, kind=kind, curve={})
    assert told() == {"4"}


def test_a_chosen_theme_beats_that_of_the_system(chromium: Browser, world: World) -> None:
    with serving(world) as address, browsing(chromium) as page:
        page.emulate_media(color_scheme="dark")
        page.goto(f"{address}{world.at}/settings")
        colour = "() => getComputedStyle(document.body).backgroundColor"
        by_system = page.evaluate(colour)
        page.get_by_role("button", name="Theme: system").first.click()
        expect(page.get_by_role("button", name="Theme: dark").first).to_be_visible()
        assert page.evaluate(colour) == by_system, "dark was chosen, and is dark"
        page.get_by_role("button", name="Theme: dark").first.click()
        expect(page.get_by_role("button", name="Theme: light").first).to_be_visible()
        assert page.evaluate(colour) != by_system


NARROWEST = {"width": 320, "height": 568}  # of a phone, and of a wide page at 400 %


def test_the_list_of_projects_fits_a_phone_beside_the_way_out(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=1, admin_password="a long enough password")
    with writing(world.engine) as session:
        session.add(Project(name="Negatives of 1987, found in the attic", encoder=BUNDLED))
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}/login?next={world.at}/library")
        page.locator("[type=password]").fill("a long enough password")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Sign out")).to_be_visible()
        for size in (PHONE, NARROWEST):
            page.set_viewport_size(size)
            page.reload()
            page.locator(".switcher summary").click()
            box = page.locator(".switcher ul").bounding_box()
            assert box and box["x"] >= 0 and box["x"] + box["width"] <= size["width"], size


def test_a_name_without_a_space_widens_no_page(chromium: Browser, world: World) -> None:
    with writing(world.engine) as session:
        world.project(session).encoder = DEFAULT_ENCODER
    with serving(world) as address, browsing(chromium) as page:
        page.set_viewport_size(NARROWEST)
        for path in ("encoders", "settings", "publish", "slices", "add"):
            page.goto(f"{address}{world.at}/{path}")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= NARROWEST["width"], path


def test_a_number_behind_a_name_from_right_to_left_stays_behind_it(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=60)
    version_id = add_version(world, 0, dict.fromkeys(range(1, 61), 0.5))
    with writing(world.engine) as session:
        for image_id in range(1, 16):
            images.add_tags(session, image_id, ["شاطئ"])
        for image_id in range(16, 46):
            label = {"version_id": version_id, "image_id": image_id, "value": 5, "side": "train"}
            session.add(VersionLabel(**label))
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/slices")
        told = page.locator("section[aria-labelledby=lacking] li")
        expect(told).to_contain_text("شاطئ: 0")
        name, number = told.evaluate(
            """line => {
              const texts = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
              const of = letter => {
                for (texts.currentNode = line; texts.nextNode();) {
                  const at = texts.currentNode.data.indexOf(letter);
                  if (at < 0) continue;
                  const range = document.createRange();
                  range.setStart(texts.currentNode, at);
                  range.setEnd(texts.currentNode, at + 1);
                  return range.getBoundingClientRect().left;
                }
              };
              return [of("ش"), of("0")];
            }"""
        )
        assert name < number


def test_where_one_is_shows_in_the_colours_of_the_system_too(
    chromium: Browser, world: World
) -> None:
    with serving(world) as address, browsing(chromium, forced_colors="active") as page:
        page.goto(f"{address}{world.at}/versions")
        for links, size in ((".side nav", DESKTOP), (".tabs", DESKTOP), (".side nav", PHONE)):
            page.set_viewport_size(size)
            looks = page.locator(f"{links} > a:visible").evaluate_all(
                """all => all.map(a => [a.hasAttribute("aria-current"),
                  getComputedStyle(a).backgroundColor, getComputedStyle(a).color])"""
            )
            here = [look for current, *look in looks if current]
            others = [look for current, *look in looks if not current]
            assert len(here) == 1 and others and here[0] not in others, (links, size)


def test_a_printed_page_holds_what_is_told_and_nothing_to_press(
    chromium: Browser, world: World
) -> None:
    add_version(world, 0, dict.fromkeys(range(1, 4), 0.5))
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/settings")
        for _ in "dark", "light":
            page.get_by_role("button", name="Theme:").first.click()
            page.emulate_media(media="print")
            page.goto(f"{address}/versions/1")
            expect(page.get_by_role("heading", name="v1.0")).to_be_visible()
            expect(page.locator("nav:visible, button:visible, .button:visible")).to_have_count(0)
            ink = "() => getComputedStyle(document.querySelector('main h1')).color"
            assert page.evaluate(ink) == "oklch(0.22 0 0)"
            page.emulate_media(media="screen")


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
