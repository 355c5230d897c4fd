"""A served world in a real Chromium, and what is looked at on every page of it."""

import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

import uvicorn
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, expect
from web_world import World, events

from tests.conftest import until

# Seconds to wait for what happens at once on a machine with nothing else to do.
PATIENCE = 30
expect.set_options(timeout=PATIENCE * 1000)

DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@contextmanager
def serving(world: World) -> Iterator[str]:
    """The application on a port of its own. Yields its address."""
    server = uvicorn.Server(uvicorn.Config(world.app, port=0, log_level="error"))
    started = threading.Event()
    startup = server.startup

    async def and_tell(*args: object, **kwargs: object) -> None:
        await startup(*args, **kwargs)
        started.set()

    server.startup = and_tell
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(10)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://localhost:{port}"
    server.should_exit = True
    thread.join(10)


@contextmanager
def browsing(chromium: Browser, **options: object) -> Iterator[Page]:
    """A page that fails the test on a script error, a CSP report, or a request to another host."""
    context = chromium.new_context(viewport=DESKTOP, **options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda message: wrong.append(message.text) if "Security Policy" in message.text else None,
    )
    page.on(
        "request",
        lambda request: wrong.append(f"asked {request.url}") if is_elsewhere(request.url) else None,
    )
    try:
        yield page
    except Exception as failed:  # what the scripts reported is most often the reason
        for report in wrong:
            failed.add_note(f"reported by the page: {report}")
        raise
    finally:
        context.close()
    assert wrong == []


def is_elsewhere(url: str) -> bool:
    return urlsplit(url).hostname not in (None, "localhost", "127.0.0.1")


PAGE_STATE = """({
  waiting: Object.entries(localStorage), ready: document.querySelector("#score")?.dataset.ready,
  toast: document.querySelector("#toast")?.innerText, focus: document.activeElement.outerHTML,
})"""


def shown_image(page: Page) -> int:
    """The id of the picture on the screen, once it was there to be seen and may be scored."""
    page.locator("#score[data-ready]").wait_for(state="attached")
    image = page.locator("#score").get_attribute("data-ready")
    assert image and page.locator("#stage img").get_attribute("data-image") == image
    return int(image)


def shown_pair(page: Page) -> int:
    """The id of the first picture of the pair, once both were there to be seen and judged."""
    page.locator("form.pair[data-ready]").wait_for(state="attached")
    return int(page.locator("[name=first_id]").get_attribute("value") or 0)


def saved(page: Page, world: World, number: int) -> list[tuple[int, str, int | None]]:
    """Wait until so many events are stored."""

    def stored() -> list[tuple[int, str, int | None]]:
        page.evaluate("0")  # lets the handlers of the test's routes run
        return kept if len(kept := events(world)) >= number else []

    if not number:
        return events(world)
    try:
        return list(until(stored, PATIENCE, f"for {number} events"))
    except AssertionError as failed:
        failed.add_note(f"stored: {events(world)}")
        failed.add_note(f"on the page: {page.evaluate(PAGE_STATE)}")
        raise


# --- what no page may have -----------------------------------------------------------------------

Rules = dict[str, Any]
View = tuple[Literal["dark", "light"], dict[str, int], Rules | None]

COLOURS: Rules = {"runOnly": ["color-contrast"]}


def violations(page: Page, rules: Rules | None = None) -> list[dict[str, Any]]:
    """What axe finds by these rules, else by all. It lists nothing else: describing what is right
    takes it longer than finding out."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    options = {"resultTypes": ["violations"], **(rules or {})}
    run = "options => axe.run(options).then(results => results.violations)"
    return list(page.evaluate(run, options))


BY_ALL_RULES = (("dark", DESKTOP, None), ("light", PHONE, None))
BY_ALL_RULES_TOO = (("light", DESKTOP, None), ("dark", PHONE, None))
IN_OTHER_COLOURS = (("light", DESKTOP, COLOURS), ("dark", PHONE, COLOURS))


def views_by_turns() -> Iterator[tuple[View, ...]]:
    """For each of many pages of one look: both widths and both themes, the other way round for
    every second page. What differs in all four would differ on the pages beside it as well."""
    return itertools.cycle((BY_ALL_RULES, BY_ALL_RULES_TOO))


# What axe and the styles look at, without the words: two pages with the same differ in nothing that
# it could find. Addresses, names and numbers are left out.
SHAPE = r"""() => [...document.querySelectorAll("body *")].map(element => element.tagName +
  [...element.attributes].map(({ name, value }) =>
    name + (/^(class|role|type|aria-[^l]|data-)/.test(name) ? value : ""))
).join(" ").replace(/\d+/g, "")"""


def troubles(
    page: Page,
    views: Iterable[View] = BY_ALL_RULES + IN_OTHER_COLOURS,
    known: set[str] | None = None,
) -> list[str]:
    """What axe finds on the page, and whether it is too wide: in each theme and width, and by all
    rules once in each theme and in each width. Of a page of a shape that is among the `known` it is
    asked only whether it is too wide."""
    shape, known = page.evaluate(SHAPE), set() if known is None else known
    is_known = shape in known
    known.add(shape)
    found = []
    for scheme, size, rules in views:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(size)
        at = f"{scheme}, {size['width']}"
        found += [
            f"{at}: {v['id']}: {n['html'][:160]}"
            for v in (() if is_known else violations(page, rules)) for n in v["nodes"]
        ]  # fmt: skip
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > size["width"]:
            found.append(f"{at}: is {width} pixels wide")
    return found
