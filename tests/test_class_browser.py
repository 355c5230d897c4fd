"""The labelling room and Review of classes in a real Chromium, by keyboard and without a script."""

import re
import zipfile
from pathlib import Path

import pytest
from class_world import Classes, class_home, draw_all, open_classes
from in_browser import DESKTOP, PHONE, browsing, saved, serving, shown_image, troubles
from playwright.sync_api import Browser, Locator, Page, expect
from safetensors import safe_open
from sqlmodel import col, select
from web_world import events, open_world

from tastemaker import projects
from tastemaker.database import sessions
from tastemaker.database.tables import Collection, EncoderRow, Job, Tag
from tastemaker.live import model_process
from tastemaker.scores import class_changes, classes
from tastemaker.training import retrain

pytestmark = pytest.mark.browser

WIDE, NARROW = (("dark", DESKTOP, None),), (("light", PHONE, None),)


def world(tmp_path: Path, **fields: object) -> Classes:
    made = open_classes(class_home(tmp_path / "home", **fields))
    draw_all(made)
    return made


def train_as_the_worker_would(made: Classes) -> None:
    with sessions.reading(made.engine) as session:
        job = session.exec(select(Job).where(Job.kind == "train").order_by(Job.id.desc())).first()
    assert job is not None and job.state == "queued"
    made.run(job, retrain.run)


def real_pictures(home: Path) -> tuple[Classes, dict[int, int]]:
    """The sample's photographs and paintings, embedded, in a project of two classes, the first 200
    labelled; and which of them each image is, prints left out."""
    world = open_world(home)
    with sessions.writing(world.engine) as session:
        collection = session.exec(select(Collection)).first()
        assert collection is not None
        project = classes.create_project(session, "Kinds", ["photograph", "painting"])
        project.seed, project.holdout_share = 5, 0.0
        projects.add_collection(session, project, collection, "pool")
        encoder = session.exec(select(EncoderRow)).first()
        assert encoder is not None
        projects.pin_encoder(session, project, encoder)
        world.project_id = project.id
        tagged = session.exec(
            select(Tag.image_id, Tag.tag).where(col(Tag.tag).in_(["photograph", "painting"]))
        )
        truth = {image_id: int(tag == "painting") for image_id, tag in tagged}
    made = Classes(world)
    first = sorted(truth)[:200]
    made.label({image: truth[image] for image in first})
    return made, truth


def go_to(page: Page, aim: Locator) -> None:
    """Bring the focus to a control by Tab alone."""
    expect(aim).to_be_visible()
    for _ in range(120):
        if aim.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {aim}")


def press(page: Page, aim: Locator, key: str = "Enter") -> None:
    go_to(page, aim)
    page.keyboard.press(key)


def test_photographs_and_paintings_are_told_apart_and_the_version_published_by_keyboard_alone(
    chromium: Browser, sample: Path, tmp_path: Path
) -> None:
    made, truth = real_pictures(sample)
    at = made.world.at
    before = len(events(made.world))
    with serving(made.world) as address, browsing(chromium, accept_downloads=True) as page:
        page.goto(f"{address}{at}/score")
        labelled: dict[int, int] = {}
        slips: list[int] = []
        prints = 0
        while len(labelled) < 8:
            image = shown_image(page)
            if image not in truth:  # a print is neither
                page.keyboard.press("Space")
                prints += 1
            else:
                if truth[image] == 1 and len(slips) < 2:
                    slips.append(image)
                labelled[image] = 0 if image in slips else truth[image]
                page.keyboard.press(str(labelled[image] + 1))
            expect(page.locator("#stage img")).not_to_have_attribute("data-image", str(image))
        last = list(labelled)[-1]
        page.keyboard.press("Backspace")
        expect(page.locator("#stage img")).to_have_attribute("data-image", str(last))
        assert shown_image(page) == last
        page.keyboard.press("x")  # gives no class
        page.keyboard.press(str(labelled[last] + 1))
        told = len(labelled) + prints + 2
        stored = saved(page, made.world, before + told)[before:]
        said = [(image, value) for image, kind, value in stored if kind == "set"]
        assert dict(said) == labelled and stored[-2:] == [
            (last, "undo", None), (last, "set", labelled[last]),
        ]  # fmt: skip

        press(page, page.get_by_role("link", name="Versions", exact=True).first)
        page.wait_for_url("**/versions")
        press(page, page.locator("[name=note]"))
        page.locator("#cancel").wait_for()
        train_as_the_worker_would(made)
        page.wait_for_url("**/confusion")
        assert troubles(page, WIDE + NARROW) == []
        wrong_way = page.get_by_role("link", name="labelled photograph, predicted painting")
        count = int(wrong_way.inner_text())
        press(page, wrong_way)
        page.wait_for_url("**/review/confused**")
        looked = []
        for left in reversed(range(count)):  # the surest first; a slip is corrected, others stand
            page.locator("#cards .card:focus").wait_for()
            looked.append(int(page.evaluate("document.activeElement.id").removeprefix("card-")))
            page.keyboard.press(str(truth[looked[-1]] + 1))
            expect(page.locator("#counts")).to_contain_text(f"{left} to look at")
        assert len(set(looked)) == count
        assert all(made.labelled(image) == truth[image] for image in looked)
        assert set(slips) & set(looked), "a slip is among what it shows"
        assert troubles(page, NARROW) == []

        press(page, page.get_by_role("link", name="Versions", exact=True).first)
        press(page, page.get_by_role("link", name="v1.0", exact=True).first)
        press(page, page.get_by_role("link", name="Publish", exact=True).first)
        page.wait_for_url("**/publish")
        with page.expect_download() as download:
            press(page, page.get_by_role("link", name=re.compile("safetensors")).first)
        file = tmp_path / "Kinds.safetensors"
        download.value.save_as(file)
        with safe_open(file, framework="numpy") as opened:
            assert opened.metadata()["read_out"] == "softmax"
        assert troubles(page, NARROW) == []
        for path, view in (("score", WIDE), ("classes", NARROW)):
            page.goto(f"{address}{at}/{path}")
            assert troubles(page, view) == [], path

        press(page, page.get_by_role("link", name="Versions", exact=True).first)
        press(page, page.get_by_role("link", name="Routers", exact=True))
        go_to(page, page.get_by_role("textbox", name="Name"))
        page.keyboard.type("Mixed pictures")
        press(page, page.get_by_role("button", name="Publish the router"))
        expect(page.locator("article.router")).to_contain_text("photograph")
        assert troubles(page, WIDE + NARROW) == []
        with page.expect_download() as download:
            press(page, page.get_by_role("link", name="Download", exact=True))
        with zipfile.ZipFile(download.value.path()) as router:
            assert [name for name in router.namelist() if name.endswith("/router.json")]


def test_label_errors_are_put_right_by_keyboard_alone_before_the_first_training(
    chromium: Browser, sample: Path
) -> None:
    """One label in twenty is wrong: most are among the first that Review lists."""
    made, truth = real_pictures(sample)
    labelled = sorted(truth)[:200]
    slips = labelled[7::20]
    made.label({image: 1 - truth[image] for image in slips}, origin="queue")
    model_process.refit(made.settings, made.engine, made.project_id)
    with serving(made.world) as address, browsing(chromium) as page:
        page.goto(f"{address}{made.world.at}/library")
        tab = page.get_by_role("link", name="Review", exact=True).first
        expect(tab).to_have_attribute("title", re.compile(r"^\d+ possible label errors to look at"))
        press(page, tab)
        page.wait_for_url("**/confusion")
        lists = page.get_by_role("navigation", name="Review")
        press(page, lists.get_by_role("link", name="Possible label errors"))
        page.wait_for_url("**/review/doubtful")
        assert troubles(page, WIDE + NARROW) == []
        listed = page.locator("[data-card]").evaluate_all("cards => cards.map(card => card.id)")
        order = [int(card.removeprefix("card-")) for card in listed]
        assert len(set(order[: len(slips)]) & set(slips)) >= 6, "a random order has 0.5 there"
        for left in reversed(range(len(order))):  # a slip is corrected, others are confirmed
            card = page.locator("#cards .card:focus")
            image = int((card.get_attribute("id") or "").removeprefix("card-"))
            page.keyboard.press(str(truth[image] + 1) if image in slips else "Enter")
            expect(page.locator("#counts")).to_contain_text(re.compile(rf"^\s*{left} label"))
        assert all(made.labelled(image) == truth[image] for image in order)
        page.keyboard.press("Backspace")
        expect(page.locator("#counts")).to_contain_text(re.compile(r"^\s*1 label"))
        for path in ("no-class", "contradictions", "confused"):
            page.goto(f"{address}{made.world.at}/review/{path}")
            assert troubles(page, WIDE + NARROW) == [], path


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

        page.goto(f"{address}/projects/1/score/grid")
        tiles = page.locator("[data-tile]")
        for at in (0, 2):
            tiles.nth(at).click()
        for key in ("1", "2", "Enter"):
            page.keyboard.press(key)
        expect(tiles.nth(2).locator(".chip")).to_have_text(["photo", "drawing"])
        assert [value for _, _, value in saved(page, made.world, 4)[2:]] == [0b011] * 2
        assert page.locator("input[name=tag]:checked").count() == 0, "the next tags are for others"
        page.keyboard.press("p")  # of scores alone
        page.keyboard.press("Backspace")
        expect(tiles.nth(2).locator(".chip")).to_have_count(0)
        assert troubles(page, WIDE + NARROW) == []


CUT_OFF = """() => [...document.querySelectorAll("main .scroll, .nearest .chip.kind")]
  .filter(it => it.scrollWidth > it.clientWidth + 1).map(it => it.outerHTML.slice(0, 160))"""
BROKEN = """() => [...document.querySelectorAll(".score.kind > span:not(.unseen), .marks .mark")]
  .filter(it => it.getBoundingClientRect().height > 1.9 * parseFloat(getComputedStyle(it).fontSize))
  .map(it => it.outerHTML)"""


@pytest.mark.parametrize("several", [False, True])
def test_on_a_phone_no_number_is_cut_off_and_no_name_is_broken(
    chromium: Browser, tmp_path: Path, several: bool
) -> None:
    made = world(tmp_path, train=True, several=several)
    model_process.refit(made.settings, made.engine, made.project_id)
    with serving(made.world) as address, browsing(chromium) as page:
        for view in (PHONE, DESKTOP):
            page.set_viewport_size(view)
            for path in ("confusion", "review/confused", "library", "score/grid"):
                page.goto(f"{address}/projects/1/{path}")
                assert page.evaluate(CUT_OFF) == [], path
                assert page.evaluate(BROKEN) == [], path


# Names of buttons that run out of them, and cards that are wider than they are shown.
OVERFLOWING = """() => [
  ...[...document.querySelectorAll(".score.kind")].filter(it =>
    it.scrollHeight > it.offsetHeight || it.scrollWidth > it.offsetWidth),
  ...[...document.querySelectorAll(".card")].filter(it => it.scrollWidth > it.clientWidth),
].map(it => it.outerHTML.slice(0, 160))"""


def test_many_classes_with_long_names_stay_within_their_buttons_and_cards(
    chromium: Browser, tmp_path: Path
) -> None:
    made = world(tmp_path, labels=0)
    with sessions.writing(made.engine) as session:
        for number in range(3, 24):
            class_changes.add(
                session, made.project(session), f"a rather long name of class {number}"
            )
    ids = sorted(made.kinds)
    made.label({image: 3 + n % 21 for n, image in enumerate(ids[:60])})
    made.train()
    with serving(made.world) as address, browsing(chromium) as page:
        for view in (PHONE, DESKTOP):
            page.set_viewport_size(view)
            for path in ("review/confused", "score", "score/grid", f"images/{ids[0]}"):
                page.goto(f"{address}/projects/1/{path}")
                assert page.locator(".score.kind").count() > 20, path
                assert page.evaluate(OVERFLOWING) == [], path


def test_a_class_is_labelled_trained_reviewed_and_published_without_a_script(
    chromium: Browser, tmp_path: Path
) -> None:
    made = world(tmp_path, labels=57)
    wrong = [image for image, kind in made.kinds.items() if kind == 0][:4]
    made.label(dict.fromkeys(wrong, 1), origin="queue")
    with (
        serving(made.world) as address,
        browsing(chromium, java_script_enabled=False, accept_downloads=True) as page,
    ):
        page.goto(f"{address}/projects/1/score")
        image = int(page.locator("#stage img").get_attribute("data-image") or 0)
        page.get_by_role("button", name="drawing").click()
        assert page.locator("#stage img").get_attribute("data-image") != str(image)
        expect(page.locator("#previous-score")).to_contain_text("drawing")
        assert made.labelled(image) == 1
        page.get_by_role("link", name="Versions", exact=True).first.click()
        page.get_by_role("button", name="Train", exact=True).first.click()
        train_as_the_worker_would(made)
        page.goto(f"{address}/projects/1/confusion")
        page.get_by_role("link", name="labelled drawing, predicted photo").click()
        card = page.locator("#cards .card").first
        fixed = int((card.get_attribute("id") or "").removeprefix("card-"))
        card.get_by_role("button", name="photo").click()
        expect(page.locator("#toast")).to_contain_text("photo")
        assert made.labelled(fixed) == 0
        model_process.refit(made.settings, made.engine, made.project_id)
        page.get_by_role("navigation", name="Review").get_by_text("No class fits").click()
        card = page.locator("#cards .card").first
        kept = int((card.get_attribute("id") or "").removeprefix("card-"))
        said = made.labelled(kept)
        card.locator('button[aria-pressed="true"]').click()
        expect(page.locator(f"#card-{kept}")).to_have_count(0)
        assert made.labelled(kept) == said
        page.locator("#toast").get_by_role("button", name="Undo").click()
        expect(page.locator(f"#card-{kept}")).to_have_count(1)
        page.goto(f"{address}/projects/1/publish")
        with page.expect_download() as download:
            page.get_by_role("link", name=re.compile("safetensors")).first.click()
        assert download.value.suggested_filename.endswith(".safetensors")
