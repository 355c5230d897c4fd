"""Scoring in a real browser: keys, quiet and beside other work, and how soon one can begin.

    python -m bench keys [--images 100000] [--keys 200] [--photos 1000]

Key → next image painted, the time to record a score, how much of an hour is the person's, how soon
a folder of photos can be scored. The worker runs as usual, so the live model is refitted behind the
keys. Beside it, in the same browser and run: the floor, a static page that swaps preloaded pictures
and posts to a bare server.
"""

import argparse
import http.client
import http.server
import json
import shutil
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from bench import bare
from bench.browser import installed
from bench.busy import busy
from bench.library import make_library, serving
from bench.web import start_row
from tastemaker.sample.samples import make_sample_library

# From the key event to the second animation frame after the new picture is in the page: the
# browser has put it on the screen by then.
WATCH = """
() => {
  window.painted = [];
  let pressed = null;
  const shown = () => document.querySelector('#stage [data-image]')?.dataset.image;
  let before = shown();
  addEventListener('keydown', () => { pressed = performance.now(); }, true);
  new MutationObserver(async () => {
    const now = shown();
    if (pressed === null || now === undefined || now === before) return;
    before = now;
    const since = pressed;
    const picture = document.querySelector('#stage img');
    if (picture) await picture.decode().catch(() => {});
    requestAnimationFrame(() => requestAnimationFrame(() => {
      window.painted.push(performance.now() - since);
    }));
  }).observe(document.querySelector('#stage'), { childList: true, subtree: true });
}
"""

# From the key event until the page takes the next key as meant for the next image.
WATCH_READY = """
() => {
  window.ready = [];
  let pressed = null;
  addEventListener('keydown', () => { pressed = performance.now(); }, true);
  new MutationObserver(() => {
    if (pressed === null || !document.querySelector('#score').dataset.ready) return;
    window.ready.push(performance.now() - pressed);
    pressed = null;
  }).observe(document.querySelector('#score'),
             { attributes: true, attributeFilter: ['data-ready'] });
}
"""
PER_HOUR = 1500
TURNS = 4
STAGE_SEEN = 120  # milliseconds that static/stage.js leaves for looking before a key counts


def percentiles(milliseconds: list[float]) -> str:
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return f"{p50:.1f} / {p95:.1f}"


def beside(ours: list[float], floor: list[float]) -> str:
    """p50 / p95, and how many times the floor's p95 that is."""
    return f"{percentiles(ours)} ({np.percentile(ours, 95) / np.percentile(floor, 95):.2f} ×)"


def wait(page: Page, condition: str, seconds: float = 30.0) -> None:
    """Ask again and again: the page's content security policy forbids Playwright's own waiting."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        if time.monotonic() > end:
            raise RuntimeError(f"waited in vain for {condition}")
        page.wait_for_timeout(5)


def press(page: Page, keys: int, pause: float) -> list[float]:
    """Press `keys` digits, `pause` seconds apart; milliseconds from each to its painted image."""
    page.evaluate(WATCH)
    for number in range(keys):
        page.keyboard.press(str(number % 10))
        wait(page, f"window.painted.length > {number}")
        page.wait_for_timeout(1000 * pause)
    painted: list[float] = page.evaluate("window.painted")
    return painted


def at_a_pace(
    page: Page, url: str, project: int, seconds: float, per_second: float
) -> dict[str, Any]:
    """Keys at an even pace, whatever the page does: how many were pressed, saved, on which
    image."""
    before = _events(url, project)
    shown: list[Any] = []
    end, due = time.monotonic() + seconds, time.monotonic()
    while time.monotonic() < end:
        value = len(shown) % 10
        shown.append(
            (
                int(page.evaluate("document.querySelector('#stage [data-image]').dataset.image")),
                value,
            )
        )
        page.keyboard.press(str(value))
        due += 1 / per_second
        time.sleep(max(0.0, due - time.monotonic()))
    wait(page, "document.querySelector('#outbox').hidden")
    saved = _events(url, project)[len(before) :]
    return {
        "pressed": len(shown),
        "saved": len(saved),
        "on the right image": sum(a == b for a, b in zip(shown, saved, strict=False)),
    }


def like_a_person(page: Page, images: int) -> tuple[list[float], float]:
    """Score so many images at the pace of `PER_HOUR`. Milliseconds that the software made the
    person wait after each key, and the share of the time that was theirs."""
    page.evaluate(WATCH_READY)
    began = due = time.monotonic()
    for number in range(images):
        due += 3600 / PER_HOUR
        page.wait_for_timeout(max(0.0, 1000 * (due - time.monotonic())))
        page.keyboard.press("0123456789-"[3 * number % 11])
        wait(page, f"window.ready.length > {number}")
    waited = page.evaluate("window.ready")
    return waited, 1 - sum(waited) / (1000 * (time.monotonic() - began))


def first_score(page: Page, photos: int, port: int) -> tuple[int, float, float]:
    """From an empty installation that has come up to the first score of a folder of photographs:
    what a person does, and the seconds from handing over the folder to the first picture and to the
    saved score."""
    home = Path(tempfile.mkdtemp(prefix="tastemaker-first-"))
    try:
        folder = home / "photos"
        photographs(folder, photos)
        with serving(home / "home", port) as (url, _, _):
            until_at_rest(url)
            page.goto(url)
            page.get_by_label("Name").first.fill("Photos")
            page.keyboard.press("Enter")  # the first action: a project
            page.get_by_label("Full path").fill(str(folder))
            began = time.monotonic()
            page.keyboard.press("Enter")  # the second: the folder
            page.locator("#score[data-ready]").wait_for(state="attached", timeout=120_000)
            seen = time.monotonic() - began
            page.keyboard.press("7")  # the third: a score
            end = time.monotonic() + 30
            while not _events(url, 1):
                if time.monotonic() > end:
                    raise RuntimeError("the first score was not saved")
                time.sleep(0.01)
            return 3, seen, time.monotonic() - began
    finally:
        shutil.rmtree(home, ignore_errors=True)


def until_at_rest(url: str, pause: float = 3.0) -> None:
    """Wait for the worker, and as long as a person takes at least to type a name and a path: what
    starting costs has a row of its own."""
    end = time.monotonic() + 60
    while json.load(urllib.request.urlopen(f"{url}/readyz"))["degraded"]:
        if time.monotonic() > end:
            raise RuntimeError("the worker did not come up")
        time.sleep(0.05)
    time.sleep(pause)


def photographs(folder: Path, count: int) -> None:
    """So many JPEGs of about a megapixel, each of another width, from a few real photographs."""
    folder.mkdir(parents=True)
    samples = make_sample_library(folder.parent / "samples", 20)
    sources = [Image.open(sample.path).convert("RGB") for sample in samples]
    for number in range(count):
        photo = sources[number % len(sources)].resize((1200 + number % 97, 900))
        photo.save(folder / f"photo-{number:04d}.jpg", quality=85)


def _events(url: str, project: int) -> list[tuple[int, int]]:
    answer = urllib.request.urlopen(f"{url}/api/v1/projects/{project}/scores?limit=100000")
    return [(e["image_id"], e["value"]) for e in reversed(json.load(answer))]


def posts(port: int, path: str, first_image: int, clients: int, each: int) -> list[float]:
    """Milliseconds of score requests by several clients at once, each on one connection that stays
    open, as a browser's does."""

    def one(client: int) -> list[float]:
        took = []
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for number in range(each):
            image = first_image + client * each + number
            said = {"image_id": image, "value": number % 11, "key": f"bench-{image:08d}"}
            body = json.dumps(said)
            began = time.perf_counter()
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            took.append(1000 * (time.perf_counter() - began))
            if answer.status != 200:
                raise RuntimeError(f"a score was answered with {answer.status}")
        connection.close()
        return took

    with ThreadPoolExecutor(clients) as pool:
        return [t for took in pool.map(one, range(clients)) for t in took]


# --- the floor ---------------------------------------------------------------------------------

FLOOR = """<!doctype html><div id="stage"></div><script>
const pictures = [...Array(COUNT).keys()].map(i => {
  const p = new Image(); p.src = `/${i}.webp`; p.dataset.image = i; return p; });
const stage = document.querySelector('#stage');
let at = 0;
stage.replaceChildren(pictures[0]);
Promise.all(pictures.map(p => p.decode())).then(() => { document.body.dataset.ready = 1; });
addEventListener('keydown', async (event) => {
  if (WAIT) await fetch('/score', { method: 'POST', body: event.key });
  stage.replaceChildren(pictures[++at % COUNT]);
  if (!WAIT) fetch('/score', { method: 'POST', body: event.key });
});
</script>"""


def floor(page: Page, pictures: list[Path], keys: int, pause: float, wait: bool) -> list[float]:
    """The same presses on a static page with every picture decoded; `wait`: swap only after the
    server answered."""
    text = FLOOR.replace("COUNT", str(len(pictures))).replace("WAIT", "true" if wait else "false")

    class Bare(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            name = self.path.strip("/").removesuffix(".webp")
            if name.isdigit():
                self.answer(pictures[int(name)].read_bytes(), "image/webp")
            else:
                self.answer(text.encode(), "text/html")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.answer(b"{}", "application/json")

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bare)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("body[data-ready]", state="attached")
        return press(page, keys, pause)
    finally:
        server.shutdown()


def by_turns(
    page: Page, url: str, project: int, home: Path, keys: int
) -> tuple[list[float], list[float], list[float]]:
    """So many keys on the Score page, on the floor that swaps at once and on the one that waits, a
    fourth of them at a time. What the browser adds, up to a frame of its own clock, changes from
    page to page, and what the host gives from minute to minute; so no page has one turn alone."""
    ours: list[float] = []
    swap: list[float] = []
    waits: list[float] = []
    for _ in range(TURNS):
        open_score_page(page, url, project)
        ours += press(page, keys // TURNS, 0.25)
        wait(page, "document.querySelector('#outbox').hidden")
        page.wait_for_timeout(2000)  # the refit behind the last keys is not the floor's
        swap += floor(page, views_in(home), keys // TURNS, 0.25, wait=False)
        waits += floor(page, views_in(home), keys // TURNS, 0.25, wait=True)
    return ours, swap, waits


def open_score_page(page: Page, url: str, project: int) -> None:
    page.goto(f"{url}/projects/{project}/score")
    page.wait_for_selector("#stage img")
    page.wait_for_timeout(1000)


def views_in(home: Path) -> list[Path]:
    """The pictures that the Score page showed, as it showed them."""
    return sorted((home / "seen").rglob("*-1280.webp"))[:50]


def main(words: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(prog="python -m bench keys")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--person", type=int, default=100, help="images scored at a human pace")
    given = parser.parse_args(words)
    home = Path(tempfile.mkdtemp(prefix="tastemaker-bench-"))
    others = Path(tempfile.mkdtemp(prefix="tastemaker-photos-"))  # what is imported lies elsewhere
    try:
        project = make_library(home, given.images, given.labels)
        photographs(others / "photos", given.photos // 2)
        with serving(home, 8899) as (url, _, _), sync_playwright() as playwright:
            _live_model(home, project)
            browser = playwright.chromium.launch(
                executable_path=installed(), args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            ours, swap, waits = by_turns(page, url, project, home, given.keys)
            open_score_page(page, url, project)
            waited, own = like_a_person(page, given.person)
            pace = at_a_pace(page, url, project, given.seconds, 4.0)
            scores = f"/api/v1/projects/{project}/scores"
            one = posts(8899, scores, given.images // 2, 1, 200)
            ten = posts(8899, scores, given.images // 2 + 1000, 10, 50)
            with bare.serving(home / "bare.db", 8896):
                bare_one = posts(8896, "/scores", 1, 1, 200)
                bare_ten = posts(8896, "/scores", 1000, 10, 50)
            views = views_in(home)
            with busy(url, project, others / "photos", others) as load:
                open_score_page(page, url, project)
                ours_busy = press(page, given.keys // 2, 0.25)
                waits_busy = floor(page, views, given.keys // 2, 0.25, wait=True)
            actions, to_see, to_save = first_score(page, given.photos, 8897)
            browser.close()
        start = start_row(others / "home", 8895)
    finally:
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(others, ignore_errors=True)
    return "\n".join(
        [
            f"{given.images:,} images, {given.labels:,} labels, the live model being refitted "
            f"behind; p50 / p95 in ms.",
            "",
            "| what | ours | goal (p95) | floor of the same run |",
            "|---|---|---|---|",
            f"| key → next image painted | {beside(ours, waits)} | 1.1 × | swap after the POST "
            f"{percentiles(waits)}; swap at once {percentiles(swap)} |",
            f"| … beside an import and a training (both at {load.seen} of {load.looks} looks) "
            f"| {beside(ours_busy, waits_busy)} | 1.5 × | beside the same: swap after the POST "
            f"{percentiles(waits_busy)} |",
            f"| score POST, one client | {percentiles(one)} | 5 | bare FastAPI, one INSERT, one "
            f"commit: {percentiles(bare_one)} |",
            f"| score POST, ten clients | {beside(ten, bare_ten)} | 1.5 × "
            f"| {percentiles(bare_ten)} |",
            f"| keys at 4 a second for {given.seconds:g} s | {pace['pressed']} pressed, "
            f"{pace['saved']} saved, {pace['on the right image']} on the right image | all | |",
            f"| {PER_HOUR:,} images an hour: key → the next key counts | {percentiles(waited)} | "
            f"| of which {STAGE_SEEN} are for looking |",
            f"| the person's share of that time | {own:.1%} | > 90 % | |",
            f"| a folder of {given.photos:,} photos: actions to the first score "
            f"| {actions} | 3 | |",
            f"| … seconds to the first picture, to the first saved score | {to_see:.1f}, "
            f"{to_save:.1f} | 3 | |",
            start,
        ]
    )


def _live_model(home: Path, project: int) -> None:
    """Wait until the resident process has written its first live model."""
    end = time.monotonic() + 120
    while not (home / "live" / f"{project}.json").exists():
        if time.monotonic() > end:
            raise RuntimeError("no live model appeared")
        time.sleep(0.1)


if __name__ == "__main__":
    print(main())
