"""Scores on their way, in a real browser, while whatever has the server's address changes: every
key is stored once, on its image, or still visible as waiting."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_browser import browsing, saved, serving, shown_image
from playwright.sync_api import Browser, Page, expect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from web_world import World, events, make_world, open_world

from tastemaker.database import installation
from tastemaker.database.sessions import reading, writing
from tastemaker.database.tables import Image

pytestmark = pytest.mark.browser

another_program = JSONResponse({"detail": "Not Found"}, 404)  # FastAPI's own, for any address


class Address:
    """An address under which now this, now that application is served."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[tuple[World, World, Address, str]]:
    """Two libraries with the same numbers of images and projects; the first one is served."""
    here, there = (make_world(tmp_path / name, images=14) for name in ("here", "there"))
    with writing(there.engine) as session:  # both are copies of what the tests keep
        installation.renew(session)
    there = open_world(tmp_path / "there")
    address = Address(here.app)
    served = World(here.settings, address, here.engine, here.client, here.project_id)
    with serving(served) as url:
        yield here, there, address, url


def press(page: Page, key: str) -> int:
    """Score what is seen. Returns its id."""
    image_id = shown_image(page)
    page.keyboard.press(key)
    return image_id


def try_again(page: Page) -> None:
    page.evaluate("dispatchEvent(new Event('online'))")


def test_another_library_another_program_and_an_upgrade_lose_and_misplace_nothing(
    homes: tuple[World, World, Address, str], chromium: Browser
) -> None:
    here, there, address, url = homes
    note = "#outbox"
    with browsing(chromium) as page:
        page.goto(f"{url}{here.at}/score")
        said = [(press(page, "1"), "set", 1)]
        assert saved(page, here, 1) == said
        page.wait_for_load_state("networkidle")  # the next pictures are at hand

        address.app = there.app
        said.append((press(page, "2"), "set", 2))
        expect(page.locator("#toast")).to_contain_text("Another library is served at this address")
        said.append((press(page, "3"), "set", 3))  # of a picture that was at hand already
        expect(page.locator(note)).to_contain_text("2 scores waiting to be saved; nothing is lost")
        expect(page.locator("#waiting-open")).to_have_text("2 waiting")
        other = page.context.new_page()  # that library's own page sends nothing of it
        other.goto(f"{url}{there.at}/score")
        assert other.evaluate("document.body.dataset.library") == there.app.state.library
        elsewhere = (press(other, "9"), "set", 9)
        assert saved(other, there, 1) == [elsewhere]
        other.locator("#waiting-open").click()
        expect(other.locator("#waiting")).to_contain_text("Of another library")
        expect(other.locator(".waiting-list li")).to_have_count(2)
        expect(other.locator(".waiting-list img")).to_have_count(0)
        other.close()

        address.app = another_program
        said.append((press(page, "4"), "set", 4))
        try_again(page)
        expect(page.locator(note)).to_contain_text("3 scores waiting")
        expect(page.locator(note)).to_contain_text("is not this Tastemaker")
        page.locator("#waiting-open").click()
        expect(page.locator(".waiting-list li")).to_have_count(3)
        page.keyboard.press("Escape")

        address.app = here.app
        try_again(page)
        expect(page.locator(note)).to_contain_text("Everything is saved.")
        assert sorted(saved(page, here, 4)) == sorted(said)
        assert events(there) == [elsewhere]

        # What an earlier version left behind names no library: it waits until somebody looked.
        left = next(n for n in range(1, 15) if n not in [image_id for image_id, _, _ in said])
        former = {"key": "former-1", "kind": "set", "value": 8, "image_id": left, "expected": 0,
                  "queue": "mixed", "project": 1, "person": 1, "name": "me", "at": 1}  # fmt: skip
        page.evaluate(
            "e => localStorage.setItem('tastemaker:outbox:' + e.key, JSON.stringify(e))", former
        )
        page.reload()
        expect(page.locator("#waiting-open")).to_have_text("1 waiting")
        page.locator("#waiting-open").click()
        expect(page.locator("#waiting")).to_contain_text("From before an upgrade")
        assert len(events(here)) == 4
        page.get_by_role("button", name="Send it to this library").click()
        assert saved(page, here, 5)[-1] == (left, "set", 8)
        expect(page.locator("#waiting-none")).to_be_visible()
        expect(page.locator("#waiting-open")).to_be_hidden()

        # A page whose scores do not go through the outbox keeps what was chosen, and says why.
        page.goto(f"{url}{here.at}/library")
        page.locator("[data-pick]").first.check()
        for app, text in ((another_program, "is not Tastemaker"), (there.app, "Another library")):
            address.app = app
            page.keyboard.press("5")
            expect(page.locator("#toast")).to_contain_text(text)
            expect(page.locator("#toast")).to_contain_text("nothing was saved")
            page.evaluate("quiet()")
        address.app = here.app
        page.keyboard.press("5")
        expect(page.locator("#toast")).to_contain_text("Undo")
        assert len(saved(page, here, 6)) == 6 and len(events(there)) == 1

        page.goto(f"{url}{here.at}/settings")  # a plain form of a page that was open
        address.app = there.app
        page.get_by_role("button", name="Save", exact=True).click()
        expect(page.locator("h1")).to_contain_text("Another library is served at this address")


BLOCKED = """
const denied = () => { throw new DOMException("denied", "SecurityError"); };
Object.defineProperty(window, "localStorage", { get: denied });
Object.defineProperty(window, "sessionStorage", { get: denied });
Object.defineProperty(navigator, "locks", { value: { request: async () => denied() } });
"""


def test_with_site_data_blocked_scores_wait_in_the_tab_and_a_line_says_so(
    homes: tuple[World, World, Address, str], chromium: Browser
) -> None:
    here, _, address, url = homes
    with browsing(chromium) as page:
        page.add_init_script(BLOCKED)
        page.goto(f"{url}{here.at}/score")
        expect(page.locator("#unstored")).to_contain_text("Site data is blocked in this browser")
        said: list[Any] = [(press(page, "7"), "set", 7)]
        assert saved(page, here, 1) == said
        page.wait_for_load_state("networkidle")
        address.app = another_program
        said += [(press(page, key), "set", int(key)) for key in "52"]
        expect(page.locator("#outbox")).to_contain_text("2 scores waiting")
        address.app = here.app
        try_again(page)
        assert saved(page, here, 3) == said
        expect(page.locator("#outbox")).to_contain_text("Everything is saved.")
        page.goto(f"{url}{here.at}/score/grid")
        expect(page.locator("#unstored")).to_contain_text("Site data is blocked in this browser")
        page.locator("[data-tile]").first.click()
        page.keyboard.press("4")
        assert saved(page, here, 4)[-1][1:] == ("set", 4)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{url}{here.at}/library")
        page.locator("#filters [name=sort]").select_option("name")
        expect(page).to_have_url(re.compile("sort=name"))
        for path in ("compare", "pairs", "settings", "people", "add"):
            page.goto(f"{url}{here.at}/{path}")
        assert errors == []


def test_what_waits_can_be_saved_as_a_file_that_can_be_imported_and_be_discarded(
    homes: tuple[World, World, Address, str], chromium: Browser
) -> None:
    from tastemaker.scores.score_files import import_scores

    here, _, address, url = homes
    with browsing(chromium, accept_downloads=True) as page:
        page.goto(f"{url}{here.at}/score")
        shown_image(page)
        page.wait_for_load_state("networkidle")
        address.app = another_program
        said = [press(page, key) for key in "06"]
        expect(page.locator("#waiting-open")).to_have_text("2 waiting")
        page.locator("#waiting-open").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as a file").click()
        file = here.settings.home / download.value.suggested_filename
        download.value.save_as(file)
        import_scores(here.engine, "Anime", file)
        assert sorted(events(here)) == sorted(zip(said, ("set", "set"), (0, 6), strict=True))
        with reading(here.engine) as session:
            assert session.get(Image, said[0]).sha256 in file.read_text()
        page.get_by_role("button", name="Discard", exact=True).first.click()
        expect(page.locator(".waiting-list li")).to_have_count(2)  # only asks
        page.get_by_role("button", name="Discard for good").click()
        expect(page.locator(".waiting-list li")).to_have_count(1)
        assert page.evaluate("Object.keys(localStorage).length") == 1
