"""How soon `serve` answers, how much memory the web process takes, and page times.

python -m bench web [--images 100000]
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

from bench.library import make_library, serving

PAGES = ("score", "score/grid", "review/false-positives", "library", "versions", "settings")


def main(words: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(prog="python -m bench web")
    parser.add_argument("--images", type=int, default=100_000)
    given = parser.parse_args(words)
    home = Path(tempfile.mkdtemp(prefix="tastemaker-bench-"))
    try:
        project = make_library(home, given.images, 1000)
        lines = [
            "| what | measured | goal | floor of the same run |",
            "|---|---|---|---|",
            start_row(home, 8898),
        ]
        with serving(home, 8898, "--no-worker") as (url, process, _):
            floor = visits(f"{url}/healthz")
            lines += [
                f"| /{page} at {given.images:,} images, p50 / p95 "
                f"| {visits(f'{url}/projects/{project}/{page}')} ms | 150 ms "
                f"| /healthz {floor} ms |"
                for page in PAGES
            ]
            memory = psutil.Process(process.pid).memory_info().rss / 2**20
            lines.append(f"| memory of the web process after that | {memory:.0f} MB | 200 MB | |")
        return "\n".join(lines)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def start_row(home: Path, port: int, times: int = 5) -> str:
    """How long `serve` takes to answer, as a row of four columns; beside it, by turns, the time to
    import what any program of this kind needs."""
    ours, bare = [], []
    libraries = [sys.executable, "-c", "import fastapi, sqlmodel, uvicorn"]
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run(libraries, check=True)
        bare.append(time.perf_counter() - began)
        with serving(home, port) as (_, _, seconds):
            ours.append(seconds)
    took, floor = statistics.median(ours), statistics.median(bare)
    return (
        f"| `serve` until `/healthz` answers, median of {times} | {took:.2f} s "
        f"({took / floor:.2f} ×) | 2 × | importing FastAPI, SQLModel and uvicorn: {floor:.2f} s |"
    )


def visits(address: str, count: int = 30) -> str:
    """p50 / p95 in milliseconds of so many visits, after one that does not count."""
    times = []
    for _ in range(count + 1):
        began = time.perf_counter()
        urllib.request.urlopen(address).read()
        times.append(1000 * (time.perf_counter() - began))
    p95 = statistics.quantiles(times[1:], n=20)[-1]
    return f"{statistics.median(times[1:]):.1f} / {p95:.1f}"


if __name__ == "__main__":
    print(main())
