"""How long the live model takes from "a score came in" to "the queue is reordered".

    python -m bench.live [--threads 2] [--repeats 5]

Times every part of one refit: the ridge with its leave-one-out and 40 penalties, the predictions
of the whole library, their uncertainty, the ranking of the library by score, and a mixed batch of
60; `cpu` is the processor time of one whole refit, all threads together. Beside it, measured in
the same run, the least that any such refit must do: one matrix-vector product over the library,
and LAPACK's eigendecomposition of the Gram matrix. Times are the best of several runs: on a shared
machine the others measure the neighbours.
"""

import argparse
import os
import time
from collections.abc import Callable

ARGUMENTS = argparse.ArgumentParser(description=__doc__.splitlines()[0])
ARGUMENTS.add_argument("--threads", type=int, default=2, help="CPU threads of the linear algebra")
ARGUMENTS.add_argument("--repeats", type=int, default=5)
if __name__ == "__main__":  # BLAS reads these once, when numpy is first imported
    options = ARGUMENTS.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)

import numpy as np  # noqa: E402
from scipy.linalg import eigh  # noqa: E402

from app.ridge import PENALTIES, ROWS_AT_ONCE, fit_ridge, posterior_sd, project  # noqa: E402
from app.selection import mixed  # noqa: E402

GOAL = 1.0  # seconds, for 3,000 labels and 100,000 images
BATCH = 60


def library(images: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings as the store keeps them (float16), with a spectrum that decays like that of real
    ones, and scores 0–10 (as 0–1) that depend on them with noise."""
    rng = np.random.default_rng(0)
    turn = rng.normal(size=(features, features)).astype(np.float32) / features**0.5
    turn *= (np.arange(1, features + 1) ** -0.5)[:, None].astype(np.float32)
    x = np.empty((images, features), np.float16)
    for start in range(0, images, ROWS_AT_ONCE):
        part = x[start : start + ROWS_AT_ONCE]
        part[:] = rng.standard_normal(part.shape, np.float32) @ turn
    taste = x[:, : features // 2].astype(np.float32).sum(1)
    noisy = 5 + 2 * taste / taste.std() + rng.normal(size=images)
    return x, np.clip(np.round(noisy), 0, 10) / 10


def refit(x: np.ndarray, y: np.ndarray, labels: int, repeats: int) -> dict[str, float]:
    """Seconds of every part, and of the limit."""
    images = len(x)
    labelled = np.arange(0, images, images // labels)[:labels]
    candidates = np.ones(images, bool)
    candidates[labelled] = False
    projection = project(x)
    wide = x.astype(np.float32)
    weights = np.ones(x.shape[1], np.float32)
    known = wide[labelled]
    gram = known.T @ known if labels >= x.shape[1] else known @ known.T

    parts: dict[str, float] = {}

    def timed(name: str, work: Callable, *arguments, **named):
        start = time.perf_counter()
        result = work(*arguments, **named)
        taken = time.perf_counter() - start
        parts[name] = min(taken, parts.get(name, taken))
        return result

    totals, processor = [], []
    for seed in range(repeats):
        start, started = time.perf_counter(), time.process_time()
        ridge = timed("fit", fit_ridge, x[labelled], y[labelled], link="identity")
        scores = timed("predict", ridge.predict, x)
        sd = timed("uncertainty", posterior_sd, projection, labelled, ridge, scores)
        timed("rank", np.argsort, scores)
        masks = candidates, candidates
        live = {"labelled": labelled, "scores": scores, "sd": sd}
        timed("batch", mixed, projection.features, *masks, BATCH, **live, seed=seed)
        totals.append(time.perf_counter() - start)
        processor.append(time.process_time() - started)
        timed("matrix-vector product", np.matmul, wide, weights)
        timed("eigendecomposition", eigh, gram, driver="evd", check_finite=False)
    parts["total"], parts["cpu"] = min(totals), min(processor)
    parts["limit"] = parts["matrix-vector product"] + parts["eigendecomposition"]
    return parts


def main() -> None:
    columns = ["fit", "predict", "uncertainty", "rank", "batch", "total", "cpu", "limit"]
    print(
        f"Live refit and reorder, {options.threads} threads, {len(PENALTIES)} penalties, "
        f"float16 library, best of {options.repeats}; milliseconds.\n"
        f"Load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.\n"
    )
    print("| features | images | labels | " + " | ".join(columns) + " | total ÷ limit |")
    print("|--:" * (len(columns) + 4) + "|")
    totals = {}
    for features in (768, 1280):
        x, y = library(100_000, features)
        sizes = [
            (10_000, 3_000),
            (30_000, 3_000),
            (100_000, 3_000),
            (100_000, 1_000),
            (100_000, 300),
        ]
        for images, labels in sizes:
            parts = refit(x[:images], y[:images], labels, options.repeats)
            shown = " | ".join(f"{1000 * parts[name]:.0f}" for name in columns)
            ratio = parts["total"] / parts["limit"]
            print(f"| {features} | {images:,} | {labels:,} | {shown} | {ratio:.1f} |", flush=True)
            totals[features, images, labels] = parts["total"]
    for features in (768, 1280):
        total = totals[features, 100_000, 3_000]
        verdict = "met" if total < GOAL else "MISSED"
        print(f"\n{features} features: {total:.2f} s, goal < {GOAL:.0f} s {verdict}.", end="")
    print()


if __name__ == "__main__":
    main()
