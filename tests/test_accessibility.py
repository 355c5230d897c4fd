"""Every page there is, found by its route, in both themes, wide and narrow: axe finds nothing, and
nothing runs out of the window."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from class_world import class_home, open_classes
from full_classes import EMPTY as EMPTY_PAGES_OF_CLASSES
from full_classes import OTHERS as OTHER_PAGES_OF_CLASSES
from full_classes import PAGES as PAGES_OF_CLASSES
from full_classes import full_classes
from in_browser import (
    DESKTOP,
    PHONE,
    browsing,
    saved,
    serving,
    shown_image,
    shown_pair,
    troubles,
    views_by_turns,
    violations,
)
from playwright.sync_api import Browser, Page, expect
from routes import OF_CLASSES, PARTS, every_route, filled, page_routes
from sqlmodel import Session
from starlette.routing import Route
from web_world import (
    World,
    add_image,
    add_job,
    events,
    full_world,
    make_world,
    score_some,
    thumbnails,
)

from tastemaker import projects, queues, scores
from tastemaker.auth import accounts
from tastemaker.database.sessions import writing
from tastemaker.database.tables import (
    Audit,
    AuditImage,
    Collection,
    Prediction,
    TestRun,
    Version,
    now,
)
from tastemaker.evaluation import expectations, slices, test_runs
from tastemaker.importing import watching
from tastemaker.importing.stars import Found, StarsRequest
from tastemaker.library import filters, saved_filters, tags
from tastemaker.live import preview_uploads
from tastemaker.pictures.pictures import VIEW
from tastemaker.queues import reviews
from tastemaker.scores import comparisons

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# What a name in an address may stand for; a page with another name in it must be added here.
STANDS_FOR = {
    "kind": list(reviews.REVIEWS),
    "project_id": ["1"], "image_id": ["1"], "version_id": ["2"], "job_id": ["1", "2", "3"],
    "run_id": ["1", "2"], "token": ["a" * 32], "audit_id": ["1"],
}  # fmt: skip
# Further addresses of a page, where a choice in the address shows another side of it.
SIDES = {
    "/projects/1/score": [f"queue={queue}&collection=1" for queue in queues.QUEUES],
    "/projects/1/library": ["scored=yes&sort=disagreement", "tag=none", "removed=yes"],
    "/projects/1/results": ["version=v1.0"],
    "/projects/1/compare": ["view=numbers", "view=labels", "view=up", "view=down"],
    "/projects/1/test-runs/1": ["part=threshold", "part=bottom"],
}


def pages(world: World) -> list[str]:
    """The address of every page that this world has: its GET routes that answer with HTML."""
    found = {"/nothing-here"}
    for route in page_routes(world.app):
        found |= {path for path in filled(route, STANDS_FOR) if is_page(world, path)}
    for path, asked in SIDES.items():
        found |= {f"{path}?{query}" for query in asked if is_page(world, f"{path}?{query}")}
    return sorted(found)


def is_page(world: World, path: str) -> bool:
    answer = world.client.get(path)
    return answer.status_code == 200 and "<html" in answer.text


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    """Every page has something to show, and some of it went wrong."""
    world = full_world(tmp_path_factory.mktemp("full"))
    failed = add_job(
        world, "failed", error="The worker stopped while it ran. It was tried 3 times."
    )
    add_job(world, "running")
    long = "/home/me/Pictures/a folder with a long name/IMG_2000.jpg"
    told = Found(
        9, 3, 2, counts=Counter({"5": 2, "to do": 1}), disbelieved=1,
        rows=[(long, "5 stars, red", 10), (long, "to do", None)],
        problems=[(long, "“a.xmp” says 1 star, and “b.xmp” says 5 stars: neither was taken.")],
    ).as_dict()  # fmt: skip
    asked = StarsRequest().model_dump()
    add_job(world, "done", "stars", payload=asked, result=asked | {"rule": "5=10"} | told)
    with writing(world.engine) as session:
        project = world.project(session)
        me = projects.annotator(session, world.settings.annotator)
        accounts.add(session, "Mira", "a long enough password")
        comparisons.record(session, project, me, 4, 10, "first")
        saved_filters.save(session, project, "Good ones", filters.LibraryFilter(label_min=7))
        tags.add(session, range(1, 9), ["portrait"])
        row = slices.add(session, project, "tag", {"tag": "portrait"})
        expectations.expect(session, project, row.id, "mean", "at most", 0.3)
        run_tests(session, world, failed)
        audit_some(session, world)
        (world.settings.root.parent / "inbox").mkdir(exist_ok=True)
        watching.watch(
            session, world.settings, project, world.settings.root.parent / "inbox"
        ).trouble = watching.SILENT
    ask_about_a_picture(world)
    with serving(world) as address:
        yield world, address


def run_tests(session: Session, world: World, failed: int) -> None:
    """A test run that is done, and one that failed."""
    project, version = world.project(session), session.get(Version, 2)
    others = Collection(name="Holiday")
    session.add(others)
    session.flush()
    projects.add_collection(session, project, others, "test-run")
    for number in range(40, 46):
        image = add_image(session, world.settings, others, number)
        said = {"score": number / 100, "uncertainty": 0.1}
        session.add(Prediction(version_id=version.id, image_id=image.id, **said))
    about = {"project_id": project.id, "version_id": version.id, "collection_id": others.id}
    run = TestRun(**about)
    session.add(run)
    session.flush()
    run.summary = test_runs.summarise(session, project, run, version)
    session.add(TestRun(job_id=failed, **about))


def audit_some(session: Session, world: World) -> None:
    """An audit that promises something."""
    project, me = world.project(session), projects.annotator(session, world.settings.annotator)
    population = {"kept": 25, "below": 5, "learned": 2, "unlike": None, "cuts": [[0.5, 25]]}
    audit = Audit(
        project_id=project.id, version_id=2, annotator_id=me.id, kind="library", name="the library",
        cut=0.5, good_from=5, population=population,
    )  # fmt: skip
    session.add(audit)
    session.flush()
    for position, image_id in enumerate(range(10, 30)):
        score = 0.3 if position % 5 == 4 else 0.7
        about = {"image_id": image_id, "score": score, "expected": score}
        session.add(AuditImage(audit_id=audit.id, position=position, **about))
        if position < 16:
            value = round(10 * score)
            scores.record(session, project, image_id, me, "set", value, origin="audit")


def ask_about_a_picture(world: World) -> None:
    """What “Try it” keeps once the model has answered."""
    (token,) = STANDS_FOR["token"]
    folder = preview_uploads.folder(world.settings, token)
    folder.mkdir(parents=True)
    preview_uploads.view_path(world.settings, token).write_bytes(dict(thumbnails(1))[VIEW])
    said = {
        "by": "v1.1", "version_id": 2, "active": True, "score": 0.61, "uncertainty": 0.12,
        "out_of_fold": None, "bracket": "best",
    }  # fmt: skip
    picture = {"image_id": None, "width": 960, "height": 640, "format": "JPEG"}
    near = {"image_id": 3, "name": "picture-003.jpg", "has_pixels": True, "label": 8,
            "similarity": 0.83}  # fmt: skip
    told = {"picture": picture, "said": [said], "neighbours": [near], "project_id": 1,
            "name": "mine.jpg"}  # fmt: skip
    preview_uploads.store_answer(world.settings, token, json.loads(json.dumps(told)))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    world = make_world(tmp_path_factory.mktemp("bare"), images=0)
    with serving(world) as address:
        yield world, address


def wrong_on(chromium: Browser, served: tuple[World, str]) -> list[str]:
    world, address = served
    wrong, known = list[str](), set[str]()
    with browsing(chromium) as page:
        for path, views in zip(pages(world), views_by_turns(), strict=False):
            page.goto(address + path)
            wrong += [f"{path}: {trouble}" for trouble in troubles(page, views, known)]
    return wrong


@pytest.mark.slow
def test_every_page_is_accessible_and_fits(chromium: Browser, full: tuple[World, str]) -> None:
    wrong = wrong_on(chromium, full)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_every_empty_page_is_accessible_and_fits(
    chromium: Browser, bare: tuple[World, str]
) -> None:
    wrong = wrong_on(chromium, bare)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_every_page_of_a_project_with_classes_is_accessible_and_fits(
    chromium: Browser, tmp_path: Path
) -> None:
    made = full_classes(tmp_path / "home")
    paths = [f"{made.world.at}/{path}" for path in PAGES_OF_CLASSES]
    wrong = wrong_at(chromium, made.world, [*paths, *OTHER_PAGES_OF_CLASSES])
    assert not wrong, "\n".join(wrong)


def test_every_empty_page_of_a_project_with_classes_is_accessible_and_fits(
    chromium: Browser, tmp_path: Path
) -> None:
    made = open_classes(class_home(tmp_path / "home", labels=0))
    paths = [f"{made.world.at}/{path}" for path in EMPTY_PAGES_OF_CLASSES]
    wrong = wrong_at(chromium, made.world, paths)
    assert not wrong, "\n".join(wrong)


def wrong_at(chromium: Browser, world: World, paths: Iterable[str]) -> list[str]:
    wrong, known = list[str](), set[str]()
    with serving(world) as address, browsing(chromium) as page:
        for path, views in zip(paths, views_by_turns(), strict=False):
            answer = page.goto(address + path)
            assert answer is not None and answer.ok, path
            wrong += [f"{path}: {trouble}" for trouble in troubles(page, views, known)]
    return wrong


def test_open_dialogs_and_menus_are_accessible_too(
    chromium: Browser, full: tuple[World, str]
) -> None:
    world, address = full
    with browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        for opener in (".switcher summary", ".chooser summary", "[data-dialog=all-keys]"):
            page.locator(opener).click()
            assert violations(page) == [], opener
        page.set_viewport_size(PHONE)
        page.goto(f"{address}{world.at}/versions")
        page.locator(".more summary").click()
        assert violations(page) == []


def test_a_failed_embedding_leaves_room_to_score_on_a_phone(
    chromium: Browser, tmp_path: Path
) -> None:
    world = make_world(tmp_path, images=3)
    lacking = "There is no file /a/" + "long" * 20 + "/path/to/weights.safetensors."
    for _ in range(2):
        job = add_job(
            world, "failed", "embed", error=lacking, cause="no-weights", finished_at=now()
        )
    with serving(world) as address, browsing(chromium) as page:
        for path in (f"{world.at}/score", f"{world.at}/library", "/jobs", f"/jobs/{job}"):
            page.goto(address + path)
            assert troubles(page, next(views_by_turns())) == [], path
        page.set_viewport_size(PHONE)
        page.goto(f"{address}{world.at}/score")
        expect(page.locator(".banner")).to_contain_text("Scores are safe")
        keys, bar = (
            page.locator("#undo button").bounding_box(),
            page.locator(".side nav").bounding_box(),
        )
        assert keys and bar and keys["y"] + keys["height"] <= bar["y"]


def test_signing_in_is_accessible(chromium: Browser, tmp_path: Path) -> None:
    world = make_world(tmp_path, images=0, admin_password="a long enough password")
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}/login")
        expect(page.locator("[type=password]")).to_be_focused()
        assert troubles(page) == []


def test_no_page_is_forgotten(full: tuple[World, str]) -> None:
    """A new page is looked at by itself, or somebody says here what stands in its address."""
    world, _ = full
    unseen = [
        route for route in page_routes(world.app)
        if not any(is_page(world, path) for path in filled(route, STANDS_FOR))
    ]  # fmt: skip
    assert unseen == []
    routes = {route.path for route in every_route(world.app.routes) if isinstance(route, Route)}
    assert not (PARTS | OF_CLASSES) - routes, "these are gone"


# --- by keyboard alone ---------------------------------------------------------------------------


def focused(page: Page) -> str:
    """What has the focus, by its id or name."""
    return str(page.evaluate("document.activeElement.id || document.activeElement.name || ''"))


def tab_to(page: Page, selector: str, key: str = "Tab") -> None:
    """Press Tab until the element has the focus; fails where it cannot be reached."""
    for _ in range(120):
        page.keyboard.press(key)
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            ring = page.evaluate(
                "getComputedStyle(document.activeElement).outlineStyle + ' ' +"
                "getComputedStyle(document.activeElement.closest('label') ?? document.body)"
                ".outlineStyle"
            )
            assert "solid" in ring or "auto" in ring, f"nothing shows that {selector} has the focus"
            return
    raise AssertionError(f"{selector} cannot be reached by Tab")


# A busy machine paints late: until then the focus is on the button of the dialog that was closed.
SKIP_BEFORE_THE_NEXT_FRAME = """() => {
  document.querySelector("#all-keys [data-close-dialog]").click();
  const space = { key: " ", code: "Space", bubbles: true, cancelable: true };
  return !document.activeElement.dispatchEvent(new KeyboardEvent("keydown", space));
}"""


def test_scoring_by_keyboard_alone(chromium: Browser, tmp_path: Path) -> None:
    """Score, look back, correct, flag with a note, zoom, read the keys, and skip: no mouse."""
    world = make_world(tmp_path, images=12)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        first = shown_image(page)
        page.keyboard.press("7")
        second = shown_image(page)
        page.keyboard.press("ArrowLeft")
        assert shown_image(page) == first
        page.keyboard.press("4")
        assert shown_image(page) == second
        page.keyboard.press("f")
        page.keyboard.type("a copy?")
        page.keyboard.press("Enter")
        page.keyboard.press("?")
        expect(page.locator("#all-keys")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#all-keys")).to_be_hidden()
        page.keyboard.press("z")
        expect(page.locator("#zoom")).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("Escape")
        page.keyboard.press("?")
        expect(page.locator("#all-keys")).to_be_visible()
        assert page.evaluate(SKIP_BEFORE_THE_NEXT_FRAME), "lost to a closed dialog"
        stored = saved(page, world, 4)
        assert stored == [(first, "set", 7), (first, "set", 4), (second, "flag", None),
                          (second, "skip", None)]  # fmt: skip


def test_scoring_many_by_keyboard_alone(chromium: Browser, tmp_path: Path) -> None:
    world = make_world(tmp_path, images=12)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score/grid")
        tab_to(page, "#tiles input")
        page.keyboard.press("Space")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        expect(page.locator("#tiles input:checked")).to_have_count(2)
        page.keyboard.press("6")
        assert sorted(value for _, _, value in saved(page, world, 2)) == [6, 6]
        page.keyboard.press("Backspace")
        assert [kind for _, kind, _ in saved(page, world, 4)][2:] == ["undo", "undo"]


def test_comparing_by_keyboard_alone(chromium: Browser, tmp_path: Path) -> None:
    world = make_world(tmp_path, images=6)
    score_some(world, [8] * 6)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score/pairs")
        told = page.get_by_text("compared so far")
        for count, key in enumerate(("ArrowLeft", "ArrowRight", "Space"), 1):
            shown_pair(page)
            page.keyboard.press(key)
            expect(told).to_contain_text(f"{count} pair")
        page.keyboard.press("Backspace")
        expect(told).to_contain_text("2 pairs")


def test_the_library_by_keyboard_alone(chromium: Browser, tmp_path: Path) -> None:
    """From the list to an image, and a score for two that were selected."""
    world = make_world(tmp_path, images=6)
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/library")
        tab_to(page, "#shelf a")
        page.keyboard.press("Enter")
        expect(page.locator(".image-page")).to_be_visible()
        page.go_back()
        for _ in range(2):
            tab_to(page, "#shelf input:not(:checked)")
            page.keyboard.press("Space")
        expect(page.locator("#selected")).to_contain_text("2")
        tab_to(page, "#changes .score")
        page.keyboard.press("Enter")
        assert [value for _, _, value in saved(page, world, 2)] == [0, 0]


def test_reviewing_by_keyboard_alone(chromium: Browser, tmp_path: Path) -> None:
    """The arrows move from card to card, a digit corrects; Tab reaches the buttons as well."""
    world = full_world(tmp_path)
    before = len(events(world))
    with serving(world) as address, browsing(chromium) as page:
        page.goto(f"{address}{world.at}/review/false-positives")
        tab_to(page, "[data-card]")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("7")
        assert saved(page, world, before + 1)[-1][2] == 7
        expect(page.locator(".verdict.changed")).to_have_count(1)
        tab_to(page, "[data-card] .score")
        page.keyboard.press("Enter")
        assert saved(page, world, before + 2)[-1][2] == 0


# --- what a person sits in front of for hours ----------------------------------------------------

WATCH = """
window.moved = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries())
    for (const { node, previousRect: was, currentRect: is } of entry.sources)
      window.moved.push(`${node?.id || node?.className || node?.nodeName} from ${was.x},${was.y} `
        + `to ${is.x},${is.y}`);
}).observe({ type: "layout-shift", buffered: true });
"""

# After two frames, all that moved until now is in the list.
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["wide", "narrow"])
def test_nothing_moves_while_scoring(
    chromium: Browser, tmp_path: Path, size: dict[str, int]
) -> None:
    """The browser itself tells what changed its place on the screen: nothing does, from the first
    image to the last, whatever is said of the one before. Only the note that a save is late, which
    lies over the picture, may come and go."""
    world = make_world(tmp_path, images=18)
    with serving(world) as address, browsing(chromium) as page:
        page.set_viewport_size(size)
        page.add_init_script(WATCH)
        page.goto(f"{address}{world.at}/score")
        shown_image(page)
        page.evaluate("window.moved.length = 0")
        for key in ("7", "0", "-", "Space", "3", "Backspace", "5", "9", "1", "4"):
            shown_image(page)
            page.keyboard.press(key)
        saved(page, world, 10)
        shown_image(page)
        page.evaluate(TWO_FRAMES)
        moved = [what for what in page.evaluate("window.moved") if "outbox" not in what]
        assert moved == []
