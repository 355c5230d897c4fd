"""Every page there is, found by its route, in both themes, wide and narrow: axe finds nothing, and
nothing runs out of the window."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from starlette.routing import Route
from test_security import every_route
from test_web_browser import DESKTOP, PHONE, browsing, serving
from web_world import World, add_job, full_world, make_world

from app.asking import queues
from app.reviewing import reviews

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# What a name in an address may stand for; a page with another name in it must be added here.
STANDS_FOR = {
    "kind": list(reviews.REVIEWS),
    "project_id": ["1"], "image_id": ["1"], "version_id": ["2"], "job_id": ["1", "2"],
}  # fmt: skip
COLOURS = {"runOnly": ["color-contrast"]}
NOT_PAGES = ("/images/", "/api/", "/static", "/healthz", "/logout")


def pages(world: World) -> list[str]:
    """The address of every page: GET routes that answer with HTML and are not a part of one."""
    found = {"/nothing-here", "/login"}
    for route in every_route(world.app.routes):
        if not isinstance(route, Route) or "GET" not in route.methods:
            continue
        if route.path.startswith(NOT_PAGES):
            continue
        for path in filled(route.path):
            answer = world.client.get(path)
            if answer.status_code == 200 and "<html" in answer.text:
                found.add(path)
    found |= {f"{world.at}/score?queue={queue}" for queue in queues.QUEUES}
    return sorted(found)


def filled(path: str) -> list[str]:
    """A route's path with every name in it replaced by all that it may stand for."""
    before, brace, rest = path.partition("{")
    if not brace:
        return [path]
    name, _, after = rest.partition("}")
    values = STANDS_FOR.get(name.split(":")[0], ["1"])
    return [before + value + tail for value in values for tail in filled(after)]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    world = full_world(tmp_path_factory.mktemp("full"))
    add_job(world, "failed", error="The worker stopped while it ran. It was tried 3 times.")
    add_job(world, "running")
    with serving(world) as address:
        yield world, address


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    world = make_world(tmp_path_factory.mktemp("bare"), images=0)
    with serving(world) as address:
        yield world, address


@pytest.mark.parametrize("state", ["full", "bare"])
def test_every_page_is_accessible_and_fits(
    chromium: Browser, state: str, request: pytest.FixtureRequest
) -> None:
    world, address = request.getfixturevalue(state)
    wrong = []
    with browsing(chromium) as page:
        for path in pages(world):
            page.goto(address + path)
            wrong += [f"{path}: {trouble}" for trouble in troubles(page)]
    assert not wrong, "\n".join(wrong)


def troubles(page: Page) -> list[str]:
    """What axe finds on the page in each theme and width, and whether it is too wide. All rules
    are asked twice; where only the colours or only the widths differ, those that this concerns."""
    told = []
    for scheme, size, rules in (
        ("dark", DESKTOP, None), ("light", DESKTOP, COLOURS),
        ("light", PHONE, None), ("dark", PHONE, COLOURS),
    ):  # fmt: skip
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(size)
        found = Axe().run(page, options=rules).response["violations"]
        at = f"{scheme}, {size['width']}"
        told += [f"{at}: {v['id']}: {n['html'][:160]}" for v in found for n in v["nodes"]]
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > size["width"]:
            told.append(f"{at}: is {width} pixels wide")
    return told


def test_open_dialogs_and_menus_are_accessible_too(
    chromium: Browser, full: tuple[World, str]
) -> None:
    world, address = full
    with browsing(chromium) as page:
        page.goto(f"{address}{world.at}/score")
        for opener in (".switcher summary", ".chooser summary", "[data-dialog=all-keys]"):
            page.locator(opener).click()
            assert Axe().run(page).response["violations"] == [], opener
        page.set_viewport_size(PHONE)
        page.goto(f"{address}{world.at}/versions")
        page.locator(".more summary").click()
        assert Axe().run(page).response["violations"] == []


def test_there_are_pages_to_look_at(full: tuple[World, str], tmp_path: Path) -> None:
    world, _ = full
    found = pages(world)
    assert len(found) > 20 and f"{world.at}/settings" in found and "/jobs" in found
