"""How long the live model takes from "a score came in" to "the queue is reordered".

    python -m bench.live [--repeats 5]

Times every part of one refit: the ridge with its leave-one-out and 40 penalties, the predictions
of the whole library, their uncertainty, the ranking of the library by score, and a mixed batch of
60; `cpu` is the processor time of one whole refit, all threads together, and `search` the
slow lists (suspects, label issues, contradictions), which are no part of it. Beside it, in
the same run, the least that an exact refit must do: one matrix-vector product over the library,
and LAPACK's eigendecomposition of the Gram matrix. (Many labels of the widest vectors are fitted on
the leading axes of the library instead, which takes less.) One and two threads of the algebra take
turns. Times are the best of several runs: on a shared machine the others measure the neighbours.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

from tastemaker.learning.distances import ROWS_AT_ONCE
from tastemaker.learning.label_issues import contradictions, label_issues
from tastemaker.learning.posterior import posterior_sd, project
from tastemaker.learning.ridge import PENALTIES, Ridge, fit_ridge
from tastemaker.learning.selection import mixed, suspected
from tastemaker.live.candidates import MOST_SUSPECTED

GOAL = 1.0  # seconds, for 3,000 labels and 100,000 images
BATCH = 60
THREADS = (1, 2)
PARTS = ("fit", "predict", "uncertainty", "rank", "batch")
SIZES = ((10_000, 3_000), (100_000, 300), (100_000, 3_000))  # images, labels
FEATURES = (768, 1280, 4128)
HUGE = (768, 1_000_000, 3_000)  # features, images, labels: to see how the cost grows

T = TypeVar("T")


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


def refit(x: np.ndarray, y: np.ndarray, labels: int, repeats: int) -> dict[int, dict[str, float]]:
    """Seconds of every part, of the whole and of the limit, by number of threads."""
    images = len(x)
    labelled = np.arange(0, images, images // labels)[:labels]
    candidates = np.ones(images, bool)
    candidates[labelled] = False
    projection = project(x)
    wide = x.astype(np.float32)
    weights = np.ones(x.shape[1], np.float32)
    known = wide[labelled]
    gram = known.T @ known if labels >= x.shape[1] else known @ known.T

    best: dict[int, dict[str, float]] = {threads: {} for threads in THREADS}

    def once(parts: dict[str, float], seed: int) -> None:
        def took(name: str, seconds: float) -> None:
            parts[name] = min(seconds, parts.get(name, seconds))

        def timed(name: str, work: Callable[..., T], *arguments: Any, **named: Any) -> T:
            start = time.perf_counter()
            result = work(*arguments, **named)
            took(name, time.perf_counter() - start)
            return result

        start, started = time.perf_counter(), time.process_time()
        quick = projection.shortcut(labels)
        ridge = timed("fit", fit_ridge, x[labelled], y[labelled], link="identity", **quick)
        scores = timed("predict", ridge.predict, x)
        sd = timed("uncertainty", posterior_sd, projection, labelled, ridge, scores)
        timed("rank", np.argsort, scores)
        masks = candidates, candidates
        live = {"labelled": labelled, "scores": scores, "sd": sd, "penalty": ridge.penalty}
        timed("batch", mixed, projection.features, *masks, BATCH, **live, seed=seed)
        took("total", time.perf_counter() - start)
        took("cpu", time.process_time() - started)
        timed("search", searches, projection.features, ridge, scores, sd, labelled, y[labelled])
        timed("product", np.matmul, wide, weights)
        timed("eigh", eigh, gram, driver="evd", check_finite=False)

    for seed in range(repeats):
        for threads in THREADS:
            with threadpool_limits(threads):
                once(best[threads], seed)
    for parts in best.values():
        parts["limit"] = parts["product"] + parts["eigh"]
    return best


def searches(
    features: np.ndarray, ridge: Ridge, scores: np.ndarray, sd: np.ndarray, labelled: np.ndarray,
    labels: np.ndarray,
) -> None:  # fmt: skip
    """What the model process looks for at most every ten seconds."""
    candidates = np.zeros(len(scores), bool)
    candidates[np.random.default_rng(0).permutation(len(scores))[:MOST_SUSPECTED]] = True
    candidates[labelled] = False
    for side in ("fp", "fn"):
        suspected(side, features, scores, sd, candidates, labelled=labelled, labels=labels)
    groups = np.arange(len(labelled))
    label_issues(features[labelled], labels, groups, ridge)
    contradictions(features[labelled], labels, groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    columns = [*PARTS, "total", "cpu", "limit", "search"]
    print(f"{len(PENALTIES)} penalties, float16 library, best of {repeats}; milliseconds.\n")
    print("| features | images | labels | threads | " + " | ".join(columns) + " | total ÷ limit |")
    print("|--:" * (len(columns) + 5) + "|")
    totals = {}
    for features, images, labels, times in (
        *((features, *size, repeats) for features in FEATURES for size in SIZES),
        (*HUGE, 2),
    ):
        x, y = library(images, features)
        for threads, parts in refit(x, y, labels, times).items():
            shown = " | ".join(f"{1000 * parts[name]:.0f}" for name in columns)
            ratio = parts["total"] / parts["limit"]
            print(
                f"| {features} | {images:,} | {labels:,} | {threads} | {shown} | {ratio:.1f} |",
                flush=True,
            )
            totals[features, images, labels, threads] = parts["total"]
    print()
    for features in FEATURES:
        seconds = {threads: totals[features, *SIZES[-1], threads] for threads in THREADS}
        better = min(seconds, key=lambda threads: seconds[threads])
        verdict = "met" if seconds[better] < GOAL else "missed"
        print(
            f"- {features} features, {SIZES[-1][1]:,} labels × {SIZES[-1][0]:,} images: "
            f"{seconds[better]:.2f} s with {better} thread{'s' * (better > 1)} "
            f"({seconds[3 - better]:.2f} s with {3 - better}); goal under {GOAL:.0f} s {verdict}."
        )


if __name__ == "__main__":
    main()
