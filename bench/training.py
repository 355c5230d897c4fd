"""Training speed and quality beside the recipe it replaces.

    python -m bench.training            speed, and quality beside the kept run of the batch-1 loop
    python -m bench.training --peer     run that loop again: 100,000 samples, half an hour
    python -m bench.training --short    speed only

The peer is the original author's recipe, written here from its description: one image at a time,
AdamW at 7e-6, cosine over the steps, L1 on (tanh z + 1)/2, 100,000 samples, inputs as they are.
In the speed test both run in this process, in turn, on the same data and threads. What the loop
said of the hold-out after its half an hour is kept in `batch_one.json`.
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

from app.learning import metrics
from app.learning.checkpoints import HIDDEN
from app.learning.descent import fit_by_descent
from app.learning.folds import TrainingSet, split_rows
from app.learning.heads import City96
from app.learning.recipes import Recipe, recipe_named
from app.learning.training import train

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


def peer(data: TrainingSet, rows: np.ndarray, samples: int, planned: int) -> tuple[City96, float]:
    """The batch-1 loop over `samples` of `planned` steps; the head and its samples per second."""
    torch.manual_seed(0)
    head = City96(data.x.shape[1])
    x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
    optimiser = torch.optim.AdamW(head.parameters(), lr=7e-6)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, planned)
    random = np.random.default_rng(0)
    order = np.concatenate([random.permutation(rows) for _ in range(-(-samples // len(rows)))])
    start = time.perf_counter()
    for row in order[:samples].tolist():
        z = head(x[row : row + 1])[:, 0]
        loss = F.l1_loss((torch.tanh(z) + 1) / 2, y[row : row + 1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cosine.step()
    return head.eval(), samples / (time.perf_counter() - start)


def ours(data: TrainingSet, samples: int) -> float:
    """Samples per second over all members, from the first batch to the finished tensors."""
    recipe = recipe_named("city96", samples=samples, passes=samples, early_stop=False)
    split = split_rows(
        data.x, data.y, data.groups, data.holdout, folds=recipe.folds, seed=recipe.seed
    )
    start = time.perf_counter()
    fit = fit_by_descent(data, split, recipe)
    members = len(fit.members) + 1
    return members * fit.recipe.samples / (time.perf_counter() - start)


def gemm_limit(batch: int) -> float:
    """Samples per second if a training step were nothing but its matrix products in bfloat16:
    forward, gradient of the inputs and gradient of the weights, for the four large layers."""
    first = torch.randn(batch, WIDTH, dtype=torch.bfloat16)
    hidden = torch.randn(batch, HIDDEN, dtype=torch.bfloat16)
    narrow = torch.randn(HIDDEN, WIDTH, dtype=torch.bfloat16)
    square = torch.randn(HIDDEN, HIDDEN, dtype=torch.bfloat16)

    def step() -> None:
        F.linear(first, narrow)
        hidden.T @ first  # the data need no gradient
        for _ in range(3):
            F.linear(hidden, square)
            hidden @ square
            hidden.T @ hidden

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
    loop, mine, limit = [], [], []
    for _ in range(rounds):
        loop.append(peer(data, rows, peer_steps, PEER_SAMPLES)[1])
        mine.append(ours(data, our_samples))
        limit.append(gemm_limit(Recipe().batch))
    base = float(np.median(loop))
    print(f"\nTraining the city96 head, {WIDTH} features, {torch.get_num_threads()} threads\n")
    print("| what | samples/s | lowest-highest | against batch 1 |")
    print("|---|---:|---:|---:|")
    for name, rates in (
        ("batch-1 loop", loop),
        ("this program, 5 folds and the final head", mine),
        ("matrix products alone, bfloat16", limit),
    ):
        spread = f"{min(rates):,.0f}-{max(rates):,.0f}"
        rate = float(np.median(rates))
        print(f"| {name} | {rate:,.0f} | {spread} | {rate / base:.0f} |")


def run_peer(samples: int) -> None:
    """The batch-1 loop on the digits, start to end, on one core; what it says is kept."""
    torch.set_num_threads(1)
    data = digits()
    head, _ = peer(data, np.flatnonzero(~data.holdout), samples, samples)
    with torch.inference_mode():
        said = torch.sigmoid(2 * head(torch.from_numpy(data.x[data.holdout]))[:, 0]).tolist()
    KEPT.write_text(json.dumps({
        "set": "digits", "samples": samples,
        "holdout_scores": [round(score, 5) for score in said],
    }))  # fmt: skip


def quality() -> None:
    """Hold-out errors on the digits, ours as a user gets them, and the paired differences."""
    data = digits()
    y = data.y[data.holdout]
    kept: dict[str, Any] = json.loads(KEPT.read_text())
    theirs = np.array(kept["holdout_scores"])
    print(f"\nHold-out of {len(y)} of {len(data.y)} digits, MAE in points of 0-10\n")
    print("| head | MAE | 95 % | seconds | less the batch-1 loop |")
    print("|---|---:|---:|---:|---|")

    def row(name: str, said: np.ndarray, seconds: float) -> None:
        mae = metrics.mean_error(y, said)
        duel = metrics.compare(np.abs(said - y), np.abs(theirs - y))
        d = duel.difference
        against = "" if said is theirs else (
            f"{d.value:+.2f} [{d.low:+.2f}, {d.high:+.2f}]: {duel.verdict}"
        )  # fmt: skip
        interval = f"{mae.low:.2f}-{mae.high:.2f}"
        took = "" if np.isnan(seconds) else f"{seconds:,.0f}"
        print(f"| {name} | {mae.value:.2f} | {interval} | {took} | {against} |")

    row(f"batch-1 loop, {kept['samples']:,} samples (kept run)", theirs, float("nan"))
    for name in ("city96", "ridge"):
        start = time.perf_counter()
        trained = train(data, recipe_named(name))
        took = time.perf_counter() - start
        row(f"{name}, with 5 folds", trained.final[data.holdout], took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", action="store_true", help="run the batch-1 loop to its end")
    parser.add_argument("--short", action="store_true", help="speed only")
    parser.add_argument("--rounds", type=int, default=3, help="of the speed test")
    parser.add_argument("--peer-steps", type=int, default=150, help="of the batch-1 loop, a round")
    parser.add_argument("--our-samples", type=int, default=PEER_SAMPLES, help="per member, a round")
    parser.add_argument("--threads", type=int, default=0, help="0 means all cores")
    args = parser.parse_args()
    if args.peer:
        run_peer(PEER_SAMPLES)
    if args.threads:
        torch.set_num_threads(args.threads)
    speed(args.rounds, args.peer_steps, args.our_samples)
    if not args.short and KEPT.exists():
        quality()


if __name__ == "__main__":
    main()
