"""Training speed and quality beside the recipe it replaces.

    python -m bench.training                 speed, and quality beside the kept runs of the peer
    python -m bench.training --peer digits   run the peer on a set again: 100,000 samples, a while
    python -m bench.training --short         speed only
    python -m bench.training --rounds 0 --recipes auto      quality of one recipe only

The peer is the original author's recipe, as the app offers it (`learning.sgd.fit_original`): one
image at a time, AdamW at 7e-6, cosine over the steps, L1 on (tanh z + 1)/2, 100,000 samples,
inputs as they are. In the speed test both run in this process, in turn, on the same data and
threads. What the peer said of a hold-out after its 100,000 samples is kept in `batch_one.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from bench import labelled
from tastemaker.learning import metrics
from tastemaker.learning.city96 import HIDDEN
from tastemaker.learning.folds import TrainingSet, split_rows
from tastemaker.learning.heads import Head, matrix_type
from tastemaker.learning.recipes import Recipe, recipe_named
from tastemaker.learning.sgd import OneByOne, fit_by_sgd
from tastemaker.learning.training import train

WIDTH = 768  # of the embeddings in the speed test: CLIP ViT-L/14
PEER_SAMPLES = 100_000
KEPT = Path(__file__).with_name("batch_one.json")


def synthetic(n: int = 3000) -> TrainingSet:
    """As many random embeddings as the original had labels; only their shape matters here."""
    random = np.random.default_rng(0)
    return TrainingSet(
        image_ids=np.arange(n),
        x=random.normal(size=(n, WIDTH)).astype(np.float32),
        y=random.random(n).astype(np.float32),
        groups=np.arange(n),
        holdout=np.zeros(n, bool),
    )


def digits() -> TrainingSet:
    """1,797 real handwritten digits, labelled by their value: what a person could have scored, and
    no straight line in the pixels. A random fifth is the hold-out."""
    data = load_digits()
    n = len(data.target)
    return TrainingSet(
        image_ids=np.arange(n),
        x=(data.data / 16).astype(np.float32),
        y=(data.target / 9).astype(np.float32),
        groups=np.arange(n),
        holdout=np.random.default_rng(0).random(n) < 0.2,
    )


def photographs() -> TrainingSet:
    """4,344 tiles of real photographs, spoiled by degree; a quarter of the pictures is the
    hold-out, and 3,000 others train."""
    return labelled.holding_out(labelled.load("photographs"), 3000, seed=30)


SETS = {"digits": digits, "photographs": photographs}


def peer(data: TrainingSet, rows: np.ndarray, samples: int, planned: int) -> tuple[OneByOne, float]:
    """The batch-1 loop over `samples` of `planned` steps; the head and its samples per second."""
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    recipe = recipe_named("original", samples=planned)
    head = OneByOne(recipe, x, y, rows, left_out=rows[:0], seed=0)
    start = time.perf_counter()
    for step in range(samples):
        head.step(step)
    return head, samples / (time.perf_counter() - start)


def ours(data: TrainingSet, samples: int) -> float:
    """Samples per second over all members, from the first batch to the finished tensors."""
    recipe = recipe_named("city96", samples=samples, passes=samples, early_stop=False)
    split = split_rows(
        data.x, data.y, data.groups, data.holdout, folds=recipe.folds, seed=recipe.seed
    )
    start = time.perf_counter()
    fit = fit_by_sgd(data, split, recipe)
    members = len(fit.members) + 1
    return members * fit.recipe.samples / (time.perf_counter() - start)


def gemm_limit(batch: int, subnetworks: int) -> float:
    """Samples per second if a training step were nothing but its matrix products, in the number
    format that this machine multiplies fastest: forward, gradient of the inputs and gradient of the
    weights, for the four large layers, which are blocks of so many subnetworks."""
    own = HIDDEN // subnetworks
    first = torch.randn(batch, WIDTH, dtype=matrix_type())
    every = torch.randn(batch, HIDDEN, dtype=matrix_type())
    hidden = torch.randn(subnetworks, batch, own, dtype=matrix_type())
    narrow = torch.randn(HIDDEN, WIDTH, dtype=matrix_type())
    square = torch.randn(subnetworks, own, own, dtype=matrix_type())

    def step() -> None:
        F.linear(first, narrow)
        every.T @ first  # the data need no gradient
        for _ in range(3):
            hidden @ square.mT
            hidden @ square
            hidden.mT @ hidden

    step()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return batch / min(times)


def speed(rounds: int, peer_steps: int, our_samples: int) -> None:
    """Both in turn, so that whatever else the machine does meets both; medians are shown."""
    data = synthetic()
    rows = np.arange(len(data.y))
    peer(data, rows, 20, PEER_SAMPLES)
    ours(data, 1024)
    loop, mine, limit, whole = [], [], [], []
    parts = Recipe().subnetworks
    for _ in range(rounds):
        loop.append(peer(data, rows, peer_steps, PEER_SAMPLES)[1])
        mine.append(ours(data, our_samples))
        limit.append(gemm_limit(Recipe().batch, parts))
        whole.append(gemm_limit(Recipe().batch, 1))
    base = float(np.median(loop))
    kind = str(matrix_type()).removeprefix("torch.")
    print(f"\nTraining the city96 head, {WIDTH} features, {torch.get_num_threads()} threads\n")
    print("| what | samples/s | lowest-highest | against batch 1 |")
    print("|---|---:|---:|---:|")
    for name, rates in (
        ("batch-1 loop", loop),
        ("this program, 5 folds and the final head", mine),
        (f"its matrix products alone, {kind}", limit),
        (f"those of a head without subnetworks, {kind}", whole),
    ):
        spread = f"{min(rates):,.0f}-{max(rates):,.0f}"
        rate = float(np.median(rates))
        print(f"| {name} | {rate:,.0f} | {spread} | {rate / base:.0f} |")


def kept_runs() -> dict[str, Any]:
    """By set: `samples`, and what the peer said of the hold-out with the `labels` it should have
    said."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def run_peer(name: str, samples: int) -> None:
    """The batch-1 loop on a set, start to end, on one core; what it says is kept."""
    torch.set_num_threads(1)
    data = SETS[name]()
    head, rate = peer(data, np.flatnonzero(~data.holdout), samples, samples)
    head.keep()
    said = Head(head.kept)(data.x[data.holdout])
    kept = kept_runs() | {
        name: {
            "samples": samples,
            "holdout_scores": [round(float(score), 5) for score in said],
            "labels": [round(float(y), 5) for y in data.y[data.holdout]],
        }
    }
    KEPT.write_text(json.dumps(kept))
    print(f"{name}: {samples:,} samples at {rate:,.0f} a second")


def quality(name: str, kept: dict[str, Any], recipes: list[str]) -> None:
    """Hold-out errors on a set, ours as a user gets them, and the paired differences."""
    data = SETS[name]()
    y, groups = data.y[data.holdout], data.groups[data.holdout]
    if len(y) != len(kept["labels"]) or not np.allclose(y, kept["labels"], atol=1e-4):
        print(f"\nThe {name} of this machine are other pictures than those of the kept run.")
        return
    theirs = np.array(kept["holdout_scores"])
    print(f"\nHold-out of {len(y):,} {name}, {(~data.holdout).sum():,} labels to learn from, "
          "MAE in points of 0-10\n")  # fmt: skip
    print("| head | MAE | 95 % | seconds | less the batch-1 loop |")
    print("|---|---:|---:|---:|---|")

    def row(name: str, said: np.ndarray, seconds: float) -> None:
        mae = metrics.mean_error(y, said, groups)
        duel = metrics.compare(np.abs(said - y), np.abs(theirs - y), groups)
        d = duel.difference
        against = "" if said is theirs else (
            f"{d.value:+.2f} [{d.low:+.2f}, {d.high:+.2f}]: {duel.verdict}"
        )  # fmt: skip
        interval = f"{mae.low:.2f}-{mae.high:.2f}"
        took = "" if np.isnan(seconds) else f"{seconds:,.0f}"
        print(f"| {name} | {mae.value:.2f} | {interval} | {took} | {against} |", flush=True)

    row(f"batch-1 loop, {kept['samples']:,} samples (kept run)", theirs, float("nan"))
    for name in recipes:
        start = time.perf_counter()
        trained = train(data, recipe_named(name))
        took = time.perf_counter() - start
        row(f"{name}, with 5 folds", trained.final[data.holdout], took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=SETS, help="run the batch-1 loop to its end, and end")
    parser.add_argument("--samples", type=int, default=PEER_SAMPLES, help="of --peer")
    parser.add_argument("--short", action="store_true", help="speed only")
    parser.add_argument("--recipes", nargs="+", default=["auto", "city96", "ridge"])
    parser.add_argument("--rounds", type=int, default=3, help="of the speed test")
    parser.add_argument("--peer-steps", type=int, default=150, help="of the batch-1 loop, a round")
    parser.add_argument("--our-samples", type=int, default=PEER_SAMPLES, help="per member, a round")
    parser.add_argument("--threads", type=int, default=0, help="0 means all cores")
    args = parser.parse_args()
    if args.peer:
        return run_peer(args.peer, args.samples)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.rounds:
        speed(args.rounds, args.peer_steps, args.our_samples)
    for name, kept in kept_runs().items() if not args.short else ():
        quality(name, kept, args.recipes)
    return None


if __name__ == "__main__":
    main()
