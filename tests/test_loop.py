"""The whole loop by hand: sample library, scores by keyboard, training, review, correction,
training again, download."""

import json
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from safetensors.numpy import load

from tastemaker.config import Settings
from tastemaker.database.migration import migrate
from tastemaker.library import deletion
from tests.conftest import serving, until

TRAINING = 600_000  # ms; it shares two cores with the other tests


def without_projects(home: Path) -> None:
    """Delete the sample project. Its pictures stay, embedded, which is what takes longest in making
    it: `sample_home` does it from nothing."""
    settings = Settings(home=home, min_free_gb=0, _env_file=None)  # type: ignore[call-arg]
    engine = migrate(settings)
    deletion.delete_project(settings, engine, 1, "Sample")
    engine.dispose()


@pytest.mark.browser
@pytest.mark.slow(60)
def test_a_newcomer_goes_through_the_whole_loop(page: Page, sample: Path) -> None:
    without_projects(sample)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: errors.append(message.text) if message.type == "error" else None,
    )
    with serving(sample) as url:
        # The first page is empty and offers the sample project with one click.
        page.goto(url)
        page.get_by_role("button", name="sample").click()
        # It ends on the results: v1.1 beside v1.0, and better than it.
        expect(page.get_by_role("heading", name="Results of v1.1")).to_be_visible(timeout=TRAINING)
        expect(page.locator(".verdict-better")).to_contain_text("Better than v1.0 by")

        # Trainings by the quick recipe, for there are two to wait for.
        page.get_by_role("link", name="Settings", exact=True).click()
        page.locator("select[name=recipe]").select_option("ridge")
        page.get_by_role("button", name="Save").first.click()
        expect(page.locator("select[name=recipe]")).to_have_value("ridge")
        page.get_by_role("link", name="Score", exact=True).click()

        # Twenty scores by keyboard; every one is saved, for the image that was on the screen.
        given = []
        for number in range(20):
            shown = page.locator("#stage img[data-image]")
            expect(shown).to_have_js_property("complete", True)
            image = shown.get_attribute("data-image")
            expect(page.locator("#score")).to_have_attribute("data-ready", image or "")
            given.append((int(image or 0), number % 11))
            page.keyboard.press("-" if number % 11 == 10 else str(number % 11))
            expect(shown).not_to_have_attribute("data-image", image or "")
            expect(page.locator("#previous-score")).to_contain_text(str(number % 11))
        assert len({image for image, _ in given}) == 20
        until(lambda: page.evaluate("!Object.keys(localStorage).some(k => k.includes('outbox'))"))
        assert given == saved(page, url)[:20][::-1]

        # Train: progress is shown, then v1.2 with a number that was measured on the hold-out.
        page.get_by_role("link", name="Versions", exact=True).click()
        page.get_by_role("button", name="Train").click()
        expect(page.get_by_role("progressbar").first).to_be_visible()
        newest = page.locator("article.version").first
        expect(newest.get_by_role("heading", name="v1.2")).to_be_visible(timeout=TRAINING)
        expect(newest).to_contain_text("hold-out images that never trained")

        # The false positives: correct the first one where it stands.
        page.get_by_role("link", name="Review", exact=True).click()
        card = page.locator("[data-card]").first
        name = card.get_attribute("id") or ""
        card.get_by_role("button", name="Score 9", exact=True).click()
        expect(page.locator(f"#{name}")).to_contain_text("Saved: 9")
        assert saved(page, url)[0] == (int(name.removeprefix("card-")), 9)

        # Train again, and download both files.
        page.get_by_role("link", name="Versions", exact=True).click()
        page.get_by_role("button", name="Train").click()
        newest = page.locator("article.version").first
        expect(newest.get_by_role("heading", name="v1.3")).to_be_visible(timeout=TRAINING)
        with page.expect_download() as download:
            newest.get_by_role("link", name="safetensors").click()
        assert download.value.suggested_filename == "Sample-v1.3.safetensors"
        tensors = load(Path(download.value.path()).read_bytes())
        assert len(tensors) == 16
        assert tensors["up.0.weight"].shape == (1024, 1280)
        assert all(np.isfinite(tensor).all() for tensor in tensors.values())
        newest.get_by_role("link", name="Open v1.3").click()
        with page.expect_download() as download:
            page.get_by_role("link", name="config.json").click()
        config = json.loads(Path(download.value.path()).read_text())
        assert config["rev"] == "v1.3"
        assert config["model_params"] == {"features": 1280, "hidden": 1024, "outputs": 1}
    assert not errors


def saved(page: Page, url: str) -> list[tuple[int, int]]:
    """(image id, value) of what this person scored, newest first."""
    events = page.request.get(f"{url}/api/v1/projects/1/scores?limit=100").json()
    return [(event["image_id"], event["value"]) for event in events]
