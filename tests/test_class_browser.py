"""The labelling room and the confusion in a real Chromium, by keyboard and without a script."""

from pathlib import Path

import pytest
from class_world import Classes, class_home, draw_all, open_classes
from in_browser import DESKTOP, PHONE, browsing, saved, serving, shown_image, troubles
from playwright.sync_api import Browser, expect

from tastemaker.database import sessions
from tastemaker.database.tables import Job
from tastemaker.training import retrain

pytestmark = pytest.mark.browser

WIDE, NARROW = (("dark", DESKTOP, None),), (("light", PHONE, None),)


def world(tmp_path: Path, **fields: object) -> Classes:
    made = open_classes(class_home(tmp_path / "home", **fields))
    draw_all(made)
    return made


def train_as_the_worker_would(made: Classes) -> None:
    with sessions.reading(made.engine) as session:
        job = session.get(Job, 1)
    assert job is not None and job.kind == "train"
    made.run(job, retrain.run)


def test_images_are_labelled_trained_and_the_confusion_corrected_by_keyboard(
    chromium: Browser, tmp_path: Path
) -> None:
    made = world(tmp_path, labels=57)
    wrong = [image for image, kind in made.kinds.items() if kind == 0][:4]
    made.label(dict.fromkeys(wrong, 1), origin="queue")
    before = 61
    with serving(made.world) as address, browsing(chromium) as page:
        page.goto(f"{address}/projects/1/score")
        labelled = {}
        for _ in range(3):
            image = shown_image(page)
            labelled[image] = made.kinds[image]
            page.keyboard.press(str(made.kinds[image] + 1))
        expect(page.locator("#previous-score")).to_have_text(
            ("photo", "drawing", "logo")[list(labelled.values())[-1]]
        )
        last = list(labelled)[-1]
        page.keyboard.press("Backspace")
        expect(page.locator("#stage img")).to_have_attribute("data-image", str(last))
        assert shown_image(page) == last
        page.keyboard.press("x")  # gives no class
        page.keyboard.press("Space")
        expect(page.locator("#stage img")).not_to_have_attribute("data-image", str(last))
        stored = saved(page, made.world, before + 5)[before:]
        assert stored[:3] == [(image, "set", kind) for image, kind in labelled.items()]
        assert stored[3:] == [(last, "undo", None), (last, "skip", None)]

        page.goto(f"{address}/projects/1/versions")
        page.locator("[name=note]").focus()
        page.keyboard.press("Enter")
        page.locator("#cancel").wait_for()
        train_as_the_worker_would(made)
        page.wait_for_url("**/confusion")
        cell = page.get_by_role("link", name="labelled drawing, predicted photo")
        count = int(cell.inner_text())
        assert count >= 1
        cell.focus()
        page.keyboard.press("Enter")
        page.locator("#cards .card:focus").wait_for()
        fixed = page.evaluate("document.activeElement.id").removeprefix("card-")
        page.keyboard.press("1")
        expect(page.locator(f"#verdict-{fixed}")).to_contain_text("photo")
        expect(page.locator("#counts")).to_contain_text(f"{count - 1} to look at")
        assert made.labelled(int(fixed)) == 0
        assert troubles(page, NARROW) == []
        for path, view in (("score", WIDE), ("classes", NARROW)):
            page.goto(f"{address}/projects/1/{path}")
            assert troubles(page, view) == [], path


def test_tags_are_ticked_by_key_and_saved_with_enter(chromium: Browser, tmp_path: Path) -> None:
    made = world(tmp_path, labels=0, several=True)
    with serving(made.world) as address, browsing(chromium) as page:
        page.goto(f"{address}/projects/1/score")
        one = shown_image(page)
        for key in ("1", "3", "2", "2", "Enter"):
            page.keyboard.press(key)
        assert shown_image(page) != one
        expect(page.locator("#previous-score")).to_have_text("photologo")
        assert page.locator("#scale :checked").count() == 0
        two = shown_image(page)
        page.keyboard.press("Enter")
        assert saved(page, made.world, 2) == [(one, "set", 0b101), (two, "set", 0)]
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#place")).to_contain_text("2 back · you said photo, logo")
        assert page.locator("#scale :checked").count() == 2


def test_an_image_is_labelled_without_a_script(chromium: Browser, tmp_path: Path) -> None:
    made = world(tmp_path, labels=0)
    with serving(made.world) as address, browsing(chromium, java_script_enabled=False) as page:
        page.goto(f"{address}/projects/1/score")
        image = int(page.locator("#stage img").get_attribute("data-image") or 0)
        page.get_by_role("button", name="drawing").click()
        assert page.locator("#stage img").get_attribute("data-image") != str(image)
        expect(page.locator("#previous-score")).to_contain_text("drawing")
        assert made.labelled(image) == 1
