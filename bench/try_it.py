"""How long a dropped picture waits for its score, with the machine idle and while a training runs.

python -m bench try_it [--pictures 40] [--home FOLDER]

The sample project is made first (or taken from `--home`, which is copied). Pictures are JPEGs of
several megapixels, sent over HTTP as the page sends them.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image
from skimage import data

from bench.library import serving

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "retina")
LONG_SIDE = 2400
GOAL = 2.0  # seconds until the answer, while a training runs
MOST_TRAININGS = 20


def pictures() -> list[bytes]:
    """JPEG files of about four megapixels."""
    files = []
    for name in PHOTOS:
        picture = Image.fromarray(getattr(data, name)()).convert("RGB")
        scale = LONG_SIDE / max(picture.size)
        buffer = io.BytesIO()
        size = (round(picture.width * scale), round(picture.height * scale))
        picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def post(url: str, body: bytes, kind: str = "application/json") -> dict[str, Any]:
    origin = url[: url.index("/", len("http://"))]
    request = urllib.request.Request(url, body, {"Content-Type": kind, "Origin": origin})
    answer: dict[str, Any] = json.loads(urllib.request.urlopen(request).read())
    return answer


def ask(url: str, content: bytes) -> float:
    """Seconds until the score of one picture is there."""
    boundary = "bench"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    ).encode()
    body = head + content + f"\r\n--{boundary}--\r\n".encode()
    began = time.perf_counter()
    answer = post(f"{url}/predict", body, f"multipart/form-data; boundary={boundary}")
    assert 0 <= answer["said"][0]["score"] <= 1
    return time.perf_counter() - began


def state(url: str, job_id: int) -> str:
    return str(json.loads(urllib.request.urlopen(f"{url}/jobs/{job_id}").read())["state"])


def during_training(url: str, project: str, files: list[bytes], wanted: int) -> list[float]:
    """Seconds of pictures asked about while a city96 training runs; it is begun again until there
    are enough. What counts is that it ran when the picture was sent."""
    times: list[float] = []
    for _ in range(MOST_TRAININGS):
        job = post(f"{project}/train", b'{"recipe": "city96"}')["id"]
        while state(url, job) == "queued":
            time.sleep(0.05)
        while len(times) < wanted and state(url, job) == "running":
            times.append(ask(project, files[len(times) % len(files)]))
        ended = wait_for(url, job)
        if ended != "done":
            raise SystemExit(f"the training beside the pictures {ended}; nothing was measured")
        if len(times) == wanted:
            return times
    raise SystemExit(f"{MOST_TRAININGS} trainings ended before {wanted} pictures were answered")


def wait_for(url: str, job_id: int) -> str:
    """How a job ended."""
    while (now := state(url, job_id)) in ("queued", "running"):
        time.sleep(0.1)
    return now


def row(what: str, times: list[float]) -> str:
    p95 = statistics.quantiles(times, n=20)[-1]
    within = sum(seconds <= GOAL for seconds in times)
    met = "met" if within == len(times) else f"missed by {len(times) - within} of {len(times)}"
    return (
        f"| {what} | {len(times)} | {statistics.median(times):.2f} s | {p95:.2f} s "
        f"| {max(times):.2f} s | each within {GOAL:.0f} s: {met} |"
    )


def main(words: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(prog="python -m bench try_it")
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--home", type=Path)
    given = parser.parse_args(words)
    home = Path(tempfile.mkdtemp(prefix="tastemaker-bench-")) / "home"
    try:
        if given.home:
            shutil.copytree(given.home, home)
        else:
            environment = os.environ | {"TASTEMAKER_HOME": str(home)}
            demo = [sys.executable, "-m", "tastemaker.cli", "demo", "--no-serve"]
            subprocess.run(demo, env=environment, check=True, stdout=subprocess.DEVNULL)
        files = pictures()
        with serving(home, 8899) as (url, _, _):
            project = f"{url}/api/v1/projects/1"
            while True:  # until the resident process is up
                try:
                    first = ask(project, files[0])
                    break
                except urllib.error.HTTPError as error:
                    assert error.code == 503, error.read()
            idle = [ask(project, files[n % len(files)]) for n in range(given.pictures)]
            busy = during_training(f"{url}/api/v1", project, files, given.pictures)
        megapixels = f"{LONG_SIDE} pixels on the long side"
        return "\n".join(
            [
                f"JPEGs with {megapixels}; the very first picture, which waits for the encoder to "
                f"load, took {first:.2f} s.",
                "",
                "| | pictures | p50 | p95 | longest | goal |",
                "|---|---|---|---|---|---|",
                row("nothing else running", idle),
                row("while a city96 training runs", busy),
            ]
        )
    finally:
        shutil.rmtree(home.parent, ignore_errors=True)


if __name__ == "__main__":
    print(main())
