"""Photograph every page in a real Chromium: full, empty and failing, wide and narrow, dark and
light.

python -m docs.screenshots.take FOLDER             all of them, as PNG, to be looked at
python -m docs.screenshots.take --docs             the reduced set that is kept beside this file
python -m docs.screenshots.take FOLDER --only score,library
"""

import argparse
import io
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Picture
from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import Error as Trouble

from bench.browser import installed
from docs.screenshots import homes

HERE = Path(__file__).parent
SIZES = {"wide": {"width": 1440, "height": 900}, "narrow": {"width": 390, "height": 844}}
SCHEMES = ("dark", "light")
KEPT = (("wide", "dark"), ("narrow", "light"))  # of every page, in docs/
PROJECT = "/projects/1"

Act = Callable[[Page], object]


@dataclass(frozen=True)
class Shot:
    """One picture to take: a page, and what is done on it before. `home` says in which of the
    servers: full, empty, new (no project yet), broken (each in its own way, see `broken`)."""

    name: str
    title: str
    path: str
    home: str = "full"
    act: Act | None = None


def scored(*keys: str) -> Act:
    """Press keys as a person would: each once its picture is there."""

    def act(page: Page) -> None:
        for key in keys:
            ready(page)
            page.keyboard.press(key)
        ready(page)
        page.wait_for_timeout(600)  # the card of the previous image fills itself
        waited(page, "!Object.keys(localStorage).some(key => key.includes('outbox'))")

    return act


def ready(page: Page) -> None:
    """Wait until the picture on the screen may be scored."""
    waited(page, "document.querySelector('#score')?.dataset.ready")


def settled(page: Page) -> None:
    """Wait until every picture on the screen is there."""
    waited(
        page,
        "[...document.images].every(image => image.complete || !image.checkVisibility()"
        " || image.getBoundingClientRect().top > innerHeight)",
    )


def waited(page: Page, truth: str) -> None:
    """Until an expression is true on the page, or a minute is over."""
    for _ in range(1200):  # wait_for_function needs eval, which the CSP forbids
        if page.evaluate(truth):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"still not so: {truth}")


def pressed(*keys: str) -> Act:
    def act(page: Page) -> None:
        ready(page)
        for key in keys:
            page.keyboard.press(key)
            page.wait_for_timeout(150)

    return act


def clicked(*selectors: str) -> Act:
    def act(page: Page) -> None:
        for selector in selectors:
            page.locator(selector).first.click()
        page.wait_for_timeout(200)

    return act


def selected(page: Page) -> None:
    for box in page.locator("[data-pick], .choosing input").all()[2:5]:
        box.evaluate("box => box.click()")
    page.wait_for_timeout(200)


def filled(selector: str, text: str, then: str) -> Act:
    def act(page: Page) -> None:
        page.locator(selector).fill(text)
        page.locator(then).first.click()
        page.locator("[role=alert]").first.wait_for()

    return act


def refused(selector: str) -> Act:
    """Press a button that the server says no to."""

    def act(page: Page) -> None:
        page.locator(selector).first.click()
        page.locator(".toast.wrong, [role=alert]").first.wait_for(timeout=60_000)

    return act


def offline(page: Page) -> None:
    """Two scores without a connection."""
    ready(page)
    page.context.set_offline(True)
    for key in ("7", "4"):
        ready(page)
        page.keyboard.press(key)
    page.wait_for_timeout(1200)


def scored_elsewhere(page: Page) -> None:
    """Score the picture that another tab has scored meanwhile."""
    ready(page)
    origin = page.url.split("/projects")[0]
    action = page.locator("#scale").get_attribute("action")
    fields = {"value": "2", "expected": "0", "key": secrets.token_hex(16), "queue": "mixed"}
    answer = page.request.post(
        f"{origin}{action}", form=fields | {"origin": "queue", "reason": ""},
        headers={"Origin": origin}, max_redirects=0,
    )  # fmt: skip
    assert answer.status < 400, answer.text()
    page.keyboard.press("8")
    page.locator("#toast .toast").wait_for()


def asked(page: Page) -> None:
    """Try a picture that is in nobody's library."""
    buffer = io.BytesIO()
    picture = Picture.effect_mandelbrot((640, 480), (-2.2, -1.2, 1.0, 1.2), 60)
    picture.convert("RGB").save(buffer, "JPEG")
    form = page.locator("#try")
    form.locator("[type=file]").set_input_files(
        {"name": "set.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()}
    )
    if form.locator("button.primary").is_enabled() and not page.locator(".tried").count():
        form.locator("button.primary").click()
    page.locator(".tried").wait_for(timeout=60_000)


REVIEWS = ("false-positives", "false-negatives", "doubtful", "contradictions")
SHOTS = (
    Shot("projects", "Projects", "/"),
    Shot("score", "Scoring, one by one", f"{PROJECT}/score", act=scored("7", "9")),
    Shot("score-zoomed", "Zoomed in", f"{PROJECT}/score", act=pressed("z")),
    Shot("score-flag", "Flagging with a note", f"{PROJECT}/score", act=pressed("f")),
    Shot("score-keys", "The keys", f"{PROJECT}/score", act=pressed("?")),
    Shot("score-history", "A look back", f"{PROJECT}/score", act=pressed("ArrowLeft", "ArrowLeft")),
    Shot("score-queues", "The queues", f"{PROJECT}/score", act=clicked(".chooser summary")),
    Shot("score-offline", "Without a connection", f"{PROJECT}/score", act=offline),
    Shot("grid", "Many at once", f"{PROJECT}/score/grid", act=selected),
    Shot("pairs", "Comparing two", f"{PROJECT}/score/pairs"),
    Shot("library", "Library", f"{PROJECT}/library"),
    Shot("library-filters", "Library, filtered", f"{PROJECT}/library?scored=yes&sort=disagreement"),
    Shot("library-selected", "Library, some selected", f"{PROJECT}/library", act=selected),
    Shot("image", "One image", f"{PROJECT}/images/7"),
    *(Shot(f"review-{kind}", f"Review: {kind.replace('-', ' ')}", f"{PROJECT}/review/{kind}")
      for kind in REVIEWS),
    Shot("versions", "Versions", f"{PROJECT}/versions"),
    Shot("results", "Results", f"{PROJECT}/results"),
    Shot("version", "One version", "/versions/2"),
    Shot("compare", "Two versions compared", f"{PROJECT}/compare"),
    Shot("slices", "Slices and expectations", f"{PROJECT}/slices"),
    Shot("publish", "Publishing", f"{PROJECT}/publish"),
    Shot("test-runs", "Test runs", f"{PROJECT}/test-runs"),
    Shot("test-run", "One test run", f"{PROJECT}/test-runs/1"),
    Shot("try", "Try it", f"{PROJECT}/try"),
    Shot("try-answer", "Try it: the answer", f"{PROJECT}/try", act=asked),
    Shot("add", "Adding images", f"{PROJECT}/add"),
    Shot("people", "People", f"{PROJECT}/people"),
    Shot("settings", "Settings", f"{PROJECT}/settings"),
    Shot("jobs", "Jobs", "/jobs?project=1", "busy"),
    Shot("job-running", "A training under way", "/jobs/latest", "busy"),
    Shot("versions-training", "Versions while one is trained", f"{PROJECT}/versions", "busy"),
    Shot("job-failed", "A job that failed", "/jobs/failed", "busy"),
    Shot("new", "The first start", "/", "new"),
    Shot("jobs-empty", "No jobs yet", "/jobs", "new"),
    *(Shot(f"{page.replace('/', '-')}-empty", f"A new project: {page}", f"{PROJECT}/{page}",
           "empty")
      for page in ("score", "score/grid", "score/pairs", "library", "review/false-positives",
                   "versions", "results", "compare", "slices", "publish", "test-runs", "try",
                   "people")),
    Shot("login", "Signing in", "/login", "locked"),
    Shot("login-wrong", "A wrong password", "/login", "locked",
         act=filled("[type=password]", "not this one", "main button")),
    Shot("error-404", "A page that is not there", f"{PROJECT}/images/999999"),
    Shot("error-409", "A score given in two tabs", f"{PROJECT}/score", act=scored_elsewhere),
    Shot("error-refused", "A folder that is not there", f"{PROJECT}/add",
         act=filled("[name=folder]", "/home/me/Pictres", "main button")),
    Shot("error-507", "A full disk", f"{PROJECT}/versions", "cramped",
         act=refused("main form button.primary")),
    Shot("error-503", "A busy database", f"{PROJECT}/settings", "stuck",
         act=refused(".save button")),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.screenshots.take")
    parser.add_argument("folder", type=Path, nargs="?", help="where the pictures go")
    parser.add_argument(
        "--docs", action="store_true", help="the reduced set, as WebP; without FOLDER, into docs/"
    )
    parser.add_argument("--only", default="", help="names of shots, or how they begin, by comma")
    parser.add_argument("--whole", action="store_true", help="whole pages, not what is on screen")
    parser.add_argument("--sample", type=Path, help="a home with the sample project, made before")
    parser.add_argument("--homes", type=Path, help="keep the homes here, and use them again")
    given = parser.parse_args()
    if not given.docs and given.folder is None:
        parser.error("say a FOLDER, or --docs")
    chosen = [
        shot for shot in SHOTS
        if not given.only or any(shot.name.startswith(name) for name in given.only.split(","))
    ]  # fmt: skip
    folder = given.folder or HERE
    folder.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    root = given.homes or Path(tempfile.mkdtemp(prefix="tastemaker-screenshots-"))
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=installed(), args=["--no-sandbox", "--disable-gpu"]
            )
            for home in dict.fromkeys(shot.home for shot in chosen):
                prepare(root, home, given.sample)
                with served(root, home) as url:
                    for shot in chosen:
                        if shot.home != home:
                            continue
                        try:
                            photograph(browser, url, shot, folder, given.docs, given.whole)
                        except (Trouble, AssertionError) as trouble:  # the others go on
                            failed.append(shot.name)
                            print(f"{shot.name} failed: {trouble}", flush=True)
            browser.close()
    finally:
        if not given.homes:
            shutil.rmtree(root, ignore_errors=True)
    if given.docs and not given.only:
        (folder / "README.md").write_text(index(chosen))
    if failed:
        raise SystemExit(f"Not taken: {', '.join(failed)}.")


def prepare(root: Path, kind: str, sample: Path | None) -> None:
    """Make the home that this kind of server starts from, if it is not there yet."""
    root.mkdir(parents=True, exist_ok=True)
    if kind in ("new", "locked"):
        return
    if kind == "empty":
        if not (root / "empty").exists():
            homes.empty(root / "empty")
    elif not (root / "full" / "done").exists():
        shutil.rmtree(root / "full", ignore_errors=True)
        if sample:
            shutil.copytree(sample, root / "full")
        else:
            homes.make_sample(root / "full")
        homes.live_in(root / "full")
        homes.try_on_others(root / "full")
        (root / "full" / "done").touch()


@contextmanager
def served(root: Path, kind: str) -> Iterator[str]:
    """A server whose home is a copy that the pictures may change. Yields its address."""
    with tempfile.TemporaryDirectory(prefix="tastemaker-screenshots-") as place:
        home = Path(place) / "home"
        if kind in ("new", "locked"):
            home.mkdir()
        else:
            shutil.copytree(root / ("empty" if kind == "empty" else "full"), home)
        words = [] if kind == "full" else ["--no-worker"]
        more = {
            "locked": {"TASTEMAKER_ADMIN_PASSWORD": "a long enough password"},
            "cramped": {"TASTEMAKER_MIN_FREE_GB": "10000"},
        }.get(kind, {})
        if kind == "busy":
            homes.a_training_under_way(home)
        stuck = homes.writes_held(home) if kind == "stuck" else nullcontext()
        with homes.serving(home, *words, **more) as url, stuck:
            yield url


def photograph(
    browser: Browser, url: str, shot: Shot, folder: Path, for_docs: bool, whole: bool
) -> None:
    for size, viewport in SIZES.items():
        schemes = [scheme for s, scheme in KEPT if s == size] if for_docs else list(SCHEMES)
        context = browser.new_context(
            viewport=viewport, color_scheme=schemes[0], reduced_motion="reduce",
            has_touch=size == "narrow",
        )  # fmt: skip
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.goto(url + address(page, url, shot.path), wait_until="load")
        if shot.act:
            shot.act(page)
        for scheme in schemes:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.wait_for_timeout(250)
            settled(page)
            taken = page.screenshot(full_page=whole)
            if for_docs:
                path = folder / f"{shot.name}-{size}.webp"
                Picture.open(io.BytesIO(taken)).convert("RGB").save(path, quality=62, method=6)
            else:
                (folder / f"{shot.name}-{size}-{scheme}.png").write_bytes(taken)
        context.close()
    print(shot.name, flush=True)


def address(page: Page, url: str, path: str) -> str:
    """The path; for `/jobs/failed` and `/jobs/latest`, that of the job meant."""
    if not re.fullmatch(r"/jobs/(failed|latest)", path):
        return path
    page.goto(f"{url}/jobs")
    rows = page.locator(".jobs li.failed a" if path.endswith("failed") else ".jobs li.running a")
    return rows.first.get_attribute("href") or path


def index(shots: list[Shot]) -> str:
    """The page that shows them all."""
    lines = [
        "# Every page",
        "",
        "Wide in the dark theme, narrow in the light one, taken from the sample project by",
        "`python -m docs.screenshots.take --docs`.",
        "",
    ]
    for shot in shots:
        pictures = (
            f'<img src="{shot.name}-wide.webp" width="640" alt="{shot.title}, wide">',
            f'<img src="{shot.name}-narrow.webp" width="184" alt="{shot.title}, narrow">',
        )
        lines += [f"## {shot.title}", "", " ".join(pictures), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
