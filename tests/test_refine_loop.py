"""The loop that made the original good: try a version elsewhere, correct what it got wrong, train
again, and see the mistakes gone."""

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from sqlmodel import select
from trained_world import DIM, TASTE, Trained, taste, vectors
from web_world import make_world, thumbnails

from tastemaker.database import sessions
from tastemaker.database.tables import Image
from tastemaker.pictures.pictures import thumb_path
from tests.conftest import serving

PATIENCE = 120_000  # milliseconds that a job may take on a busy machine


def home_with_a_blind_spot(home: Path) -> None:
    """A project whose pool has no pictures of text, so that v1.0 cannot know what to make of
    them: it likes some of those in the collection “Holiday” that its person will not."""
    made = Trained(make_world(home, images=0))
    with sessions.writing(made.engine) as session:
        project = made.project(session)
        project.seed, project.recipe = 5, "ridge"  # the seed settles the folds; a line is quick
    pool = vectors(80, 1)
    pool[:, -1] = 0.0  # the axis on which pictures of text differ
    ids = made.add(80, "Pictures", "pool", seed=1, x=pool)
    made.score(dict(zip(ids, taste(pool).tolist(), strict=True)))
    holiday = 0.3 * vectors(24, 2)
    holiday[:, -1] = 0.0
    liked = TASTE / np.linalg.norm(TASTE)
    holiday[:6] += 1.2 * liked
    holiday[:6, -1] = 5.0
    assert holiday.shape[1] == DIM
    made.add(24, "Holiday", None, seed=2, x=holiday)
    with sessions.reading(made.engine) as session:
        for number, image in enumerate(session.exec(select(Image))):
            for size, content in thumbnails(number % 60):
                path = thumb_path(made.settings.thumbs, image.sha256, size)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    made.train()


@pytest.mark.browser
@pytest.mark.slow
def test_mistakes_found_in_a_test_run_are_gone_in_the_next_version(
    page: Page, tmp_path: Path
) -> None:
    home_with_a_blind_spot(tmp_path / "home")
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: errors.append(message.text) if message.type == "error" else None,
    )
    with serving(tmp_path / "home") as url:
        # Try v1.0 on images it has never seen.
        page.goto(f"{url}/projects/1/test-runs")
        page.get_by_label("Which one").select_option("Holiday (24)")
        page.get_by_role("button", name="Start").click()
        cards = page.locator("[data-card]")
        expect(cards).to_have_count(24, timeout=PATIENCE)
        expect(page.get_by_role("heading", level=1)).to_have_text("Holiday by v1.0")

        # The three highest are wrong: correct them with one key each.
        wrong = [cards.nth(n).get_attribute("id") or "" for n in range(3)]
        for at, name in enumerate(wrong):
            card = page.locator(f"#{name}")
            expect(card.locator(".big-said")).to_have_text(re.compile(r"^([5-9]\.\d|10\.0)$"))
            card.focus()
            page.keyboard.press("0")
            expect(card).to_contain_text("Saved: 0")
            expect(page.locator("#corrected dd")).to_contain_text(str(at + 1))

        # Train on them, straight from the run.
        page.locator("#corrected").get_by_role("link", name="Train").click()
        page.get_by_role("button", name="Train").first.click()
        expect(page.get_by_role("heading", name="v1.1")).to_be_visible(timeout=PATIENCE)

        # All three went from pass to fail.
        page.goto(f"{url}/projects/1/compare?a=v1.0&b=v1.1&view=down")
        for name in wrong:
            expect(page.locator(f"#{name}")).to_be_visible()
        expect(page.locator("#counts")).to_contain_text("3 are now on the right side")
        page.goto(f"{url}/projects/1/compare?a=v1.0&b=v1.1&view=up")
        for name in wrong:
            expect(page.locator(f"#{name}")).to_have_count(0)

        # The same images by the new version: the run says what changed, and they are not on top.
        page.goto(f"{url}/projects/1/test-runs")
        page.get_by_role("link", name="Try another version on it").click()
        page.get_by_label("Version").select_option("v1.1 (active)")
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_text("against v1.0")).to_be_visible(timeout=PATIENCE)
        first = [cards.nth(n).get_attribute("id") for n in range(3)]
        assert not set(first) & set(wrong)

        # Read the card of the new version.
        page.goto(f"{url}/projects/1/versions")
        page.get_by_role("link", name="Publish", exact=True).click()
        card = page.locator(".model-card")
        expect(card).to_contain_text("v1.1")
        expect(
            card.get_by_role("heading", name=re.compile("history", re.IGNORECASE))
        ).to_be_visible()
    assert not errors
