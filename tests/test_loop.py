"""The first hour by hand: the sample begun, a project of one's own, sixty keys, training, a review
with twenty keys, training again, what flipped, download, a filtered folder."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from playwright.sync_api import Page, expect
from safetensors.numpy import load

from tastemaker.config import DEFAULT_ENCODER, Settings
from tastemaker.database.migration import migrate
from tastemaker.encoding.encoder_specs import BUNDLED
from tastemaker.library import deletion
from tests.conftest import serving, until

TRAINING = 600_000  # ms; it shares two cores with the other tests
OWN = 120  # pictures of the project of one's own


def without_projects(home: Path) -> None:
    """Delete the sample project. Its pictures stay, embedded: so that the project of one's own has
    its vectors at once."""
    settings = Settings(home=home, min_free_gb=0, _env_file=None)  # type: ignore[call-arg]
    engine = migrate(settings)
    deletion.delete_project(settings, engine, 1, "Sample")
    engine.dispose()


@pytest.mark.browser
@pytest.mark.slow
def test_a_newcomer_goes_through_the_whole_loop(page: Page, sample: Path, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    stored = sorted(path for path in (sample / "images").rglob("*") if path.is_file())
    for path in stored[:OWN]:
        shutil.copy(path, pictures)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: errors.append(message.text) if message.type == "error" else None,
    )
    with serving(sample) as url:
        # What the sample ends on: v1.1 beside v1.0, and better than it.
        page.goto(f"{url}/projects/1/results")
        expect(page.get_by_role("heading", name="Results of v1.1")).to_be_visible()
        expect(page.locator(".verdict-better")).to_contain_text("Better than v1.0 by")

        # Without a project the first page offers it with one click. It begins to be made, while
        # one watches, and is not waited for: `sample_home` is the whole of it.
        without_projects(sample)
        page.goto(url)
        page.get_by_role("button", name="sample").click()
        expect(page.get_by_role("heading", name="Make the sample project")).to_be_visible()
        expect(page.locator("#job")).to_contain_text("Making the sample pictures", timeout=TRAINING)
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#job")).to_contain_text("cancelled", timeout=TRAINING)

        # Then a project of one's own: a name, a folder, and the first picture is there to score.
        page.goto(url)
        page.get_by_label("Name").fill("Mine")
        expect(page.locator("[name=encoder]")).to_have_value(DEFAULT_ENCODER)
        page.locator("[name=encoder]").select_option(BUNDLED)  # the quick one
        page.get_by_role("button", name="Create the project").click()
        page.get_by_label("Full path").fill(str(pictures))
        page.get_by_role("button", name="Add the folder").click()
        expect(page.locator("#stage img[data-image]")).to_be_visible(timeout=TRAINING)
        page.get_by_role("link", name="Settings", exact=True).click()
        page.locator("select[name=recipe]").select_option("ridge")  # the quick one
        page.get_by_role("button", name="Save").first.click()
        expect(page.locator("select[name=recipe]")).to_have_value("ridge")
        page.get_by_role("link", name="Score", exact=True).click()

        # Sixty scores by sixty keys; every one is saved, for the image that was on the screen.
        given = []
        for _ in range(60):
            shown = page.locator("#stage img[data-image]")
            image = shown.get_attribute("data-image") or ""
            expect(page.locator("#score")).to_have_attribute("data-ready", image)
            value = taste(page, url, int(image))
            given.append((int(image), value))
            page.keyboard.press("-" if value == 10 else str(value))
            expect(shown).not_to_have_attribute("data-image", image)
        assert len({image for image, _ in given}) == 60
        until(lambda: page.evaluate("!Object.keys(localStorage).some(k => k.includes('outbox'))"))
        assert given == saved(page, url)[:60][::-1]

        # Train, on the same page: it ends on what v1.0 makes of images that it never saw.
        train = page.locator("#strip").get_by_role("button", name="Train")
        expect(train).to_be_visible(timeout=TRAINING)  # as soon as there are vectors to learn from
        expect(page.locator("#strip")).not_to_contain_text("embedding:", timeout=TRAINING)
        train.click()
        results = page.get_by_role("heading", name="Results of v1.0")
        expect(results).to_be_visible(timeout=TRAINING)
        expect(page.get_by_text("Cross-validated on")).to_be_visible()
        expect(page.locator(".ends img")).to_have_count(24)

        # Review: twenty cards cost twenty keys.
        page.get_by_role("link", name="Review", exact=True).click()
        reviewed = 0
        for review in ("False positives", "False negatives"):
            page.get_by_role("navigation", name="Review").get_by_role("link", name=review).click()
            for _ in range(min(20 - reviewed, page.locator("[data-card]").count())):
                card = page.locator("[data-card]:focus")
                image = (card.get_attribute("id") or "").removeprefix("card-")
                page.keyboard.press("0" if taste(page, url, int(image)) < 5 else "9")
                expect(page.locator(f"#card-{image} .verdict.changed")).to_be_visible()
                reviewed += 1
        assert reviewed == 20
        assert len({image for image, _ in saved(page, url)[:20]}) == 20

        # Train again: v1.1, and what flipped between the two.
        page.get_by_role("link", name="Versions", exact=True).click()
        page.get_by_role("button", name="Train").click()
        newest = page.locator("article.version").first
        expect(newest.get_by_role("heading", name="v1.1")).to_be_visible(timeout=TRAINING)
        expect(page.get_by_text("A ring is cross-validated")).to_be_visible()
        newest.get_by_role("link", name="Compare with v1.0").click()
        expect(
            page.get_by_text("drawn at random or scored in files, each predicted by heads")
        ).to_be_visible()
        expect(page.locator("#counts")).to_contain_text("a pass" if page.get_by_role(
            "link", name="Fail to pass").get_attribute("aria-current") else "a fail")  # fmt: skip

        # Download both files, and filter a folder with the version.
        page.get_by_role("link", name="Versions", exact=True).click()
        with page.expect_download() as download:
            newest.get_by_role("link", name="safetensors").click()
        assert download.value.suggested_filename == "Mine-v1.1.safetensors"
        tensors = load(Path(download.value.path()).read_bytes())
        assert len(tensors) == 16
        assert tensors["up.0.weight"].shape == (1024, 1280)
        assert all(np.isfinite(tensor).all() for tensor in tensors.values())
        newest.get_by_role("link", name="Open v1.1").click()
        page.locator("#file summary").click()
        with page.expect_download() as download:
            page.get_by_role("link", name="config.json").click()
        config = json.loads(Path(download.value.path()).read_text())
        assert config["rev"] == "v1.1"
        assert config["model_params"] == {"features": 1280, "hidden": 1024, "outputs": 1}
        few = tmp_path / "few"
        few.mkdir()
        for picture in sorted(pictures.iterdir())[:12]:
            shutil.copy(picture, few)
        filtered = run_program(sample, "score", str(few), "--model", "Mine@active", "--pass",
                               "--copy", str(tmp_path / "good"))  # fmt: skip
        passing = int(filtered.stderr.split(" of 12 pass")[0].split()[-1])
        assert len(list((tmp_path / "good").glob("*"))) == passing
    assert not errors


def saved(page: Page, url: str) -> list[tuple[int, int]]:
    """(image id, value) of what this person scored, newest first."""
    project = max(p["id"] for p in page.request.get(f"{url}/api/v1/projects").json())
    events = page.request.get(f"{url}/api/v1/projects/{project}/scores?limit=100").json()
    return [(event["image_id"], event["value"]) for event in events]


def taste(page: Page, url: str, image_id: int) -> int:
    """What this newcomer thinks of a picture: the warmer its light, the better."""
    content = page.request.get(f"{url}/images/{image_id}/thumb").body()
    with Picture.open(io.BytesIO(content)) as picture:
        red, _, blue = np.asarray(picture.convert("RGB"), float).reshape(-1, 3).mean(0)
    return int(np.clip(round(4.5 + (red - blue) / 12), 0, 10))


def run_program(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tastemaker.cli", *words],
        env=os.environ | {"TASTEMAKER_HOME": str(home)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done
