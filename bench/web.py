"""How soon `serve` answers, how much memory the web process takes, and page times.

python -m bench web [--images 100000]
"""

import argparse
import shutil
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

from bench.library import make_library, serving

PAGES = ("score", "review/false-positives", "versions", "settings")


def main(words: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(prog="python -m bench web")
    parser.add_argument("--images", type=int, default=100_000)
    given = parser.parse_args(words)
    home = Path(tempfile.mkdtemp(prefix="tastemaker-bench-"))
    try:
        project = make_library(home, given.images, 1000)
        starts = []
        for _ in range(5):
            with serving(home, 8898, "--no-worker") as (_, _, seconds):
                starts.append(seconds)
        lines = [
            "| what | measured | goal |",
            "|---|---|---|",
            f"| `serve` until `/healthz` answers, median of 5 | {statistics.median(starts):.2f} s "
            "| 2 s |",
        ]
        with serving(home, 8898, "--no-worker") as (url, process, _):
            for page in PAGES:
                times = []
                for _ in range(30):
                    began = time.perf_counter()
                    urllib.request.urlopen(f"{url}/projects/{project}/{page}").read()
                    times.append(1000 * (time.perf_counter() - began))
                p95 = statistics.quantiles(times, n=20)[-1]
                lines.append(
                    f"| /{page} at {given.images:,} images, p50 / p95 "
                    f"| {statistics.median(times):.0f} / {p95:.0f} ms | 150 ms |"
                )
            memory = psutil.Process(process.pid).memory_info().rss / 2**20
            lines.append(f"| memory of the web process after that | {memory:.0f} MB | 200 MB |")
        return "\n".join(lines)
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    print(main())
