"""What `auto` makes of a line and a network, beside either alone, on hold-outs of real pictures.

    python -m bench recipes                     every set, 30 to 3,000 labels, five seeds
    python -m bench.recipes --sets digits --labels 30 300 --seeds 2 --recipes ridge mlp city96
    python -m bench.recipes --processes 16      trainings side by side, a core each

Every seed draws another hold-out (a quarter, by picture) and other labels. Errors are hold-out
MAE in points of 0-10, the mean over the seeds. `auto` is compared with the better of ridge and
city96 *on the hold-out*, which it cannot see. Whether it is worse than that recipe is a question
about any labels, so the draws are the sample: Student's interval of the mean difference, a draw
counting once. Beside it stands the paired bootstrap over pictures, which asks about these very
draws only, and calls every unlucky share a difference. `share` is the network's part of the logit,
lowest to highest. Calibration is part of every recipe; `stretched` counts where it was kept. The
recipe of city96 and how shares are fitted were chosen on digits, photographs, stamps and clip-art
with seeds 0-14; those from 30 to 54 judged them, and changed them three times (docs/decisions/0018,
0019), and those from 55 to 59 moved the limit of `auto` from thirty labels to twenty (0021). The
pictures of a game, emoji, wallpapers and handwriting had no other part in it.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from threadpoolctl import threadpool_limits

from bench import labelled, replay
from tastemaker.learning import metrics
from tastemaker.learning.blending import blend
from tastemaker.learning.folds import TrainingSet, split_rows
from tastemaker.learning.recipes import recipe_named
from tastemaker.learning.ridge import fit_linear
from tastemaker.learning.sgd import fit_by_sgd
from tastemaker.learning.training import FEWEST_FOR_NETWORK, Trained, finish

FIRST_SEED = 60  # earlier ones were looked at while `auto` was made
LABELS = (30, 100, 300, 1000, 3000)
RECIPES = ("ridge", "city96")


def heads(
    data: TrainingSet, seed: int, recipes: tuple[str, ...] = RECIPES
) -> tuple[dict[str, Trained], float]:
    """A trained head per recipe and of `auto`, by the rule of `train`, which would fit all of them
    again; and the share of the network."""
    split = split_rows(data.x, data.y, data.groups, data.holdout, folds=None, seed=seed)
    fits = {
        name: (fit_linear if name == "ridge" else fit_by_sgd)(
            data, split, recipe_named(name, seed=seed)
        )
        for name in recipes
    }
    share, auto = 0.0, fits["ridge"]
    if split.train.sum() >= FEWEST_FOR_NETWORK:
        auto, found = blend(data, split, fits["city96"], fits["ridge"])
        share = found.share
    made = {name: finish(data, split, fit) for name, fit in (fits | {"auto": auto}).items()}
    return made, share


def available() -> list[str]:
    """Digits, photographs and stamps; then what no choice was made by, as far as it is here."""
    missing = replay.available()
    return [*labelled.available(), *(name for name in replay.JUDGES if not missing[name])]


def load(name: str) -> TrainingSet:
    """A set of `labelled`, or one of the replay's."""
    if name in labelled.available():
        return labelled.load(name)
    kept = replay.load(name)
    n = len(kept.x)
    return TrainingSet(
        image_ids=np.arange(n),
        x=kept.x.astype(np.float32),
        y=kept.scores.astype(np.float32),
        groups=kept.groups,
        holdout=np.zeros(n, bool),
    )


@dataclass(frozen=True)
class Outcome:
    """What one training of each recipe says of its hold-out: `errors` by recipe and the `groups` of
    the images, (held,) each; the network's `share`; how often scores were `stretched`."""

    errors: dict[str, np.ndarray]
    groups: np.ndarray
    share: float
    stretched: int


def outcome(name: str, labels: int, seed: int, recipes: tuple[str, ...]) -> Outcome | None:
    """Nothing if the set has not that many labels."""
    whole = load(name)
    data = labelled.holding_out(whole, labels, seed)
    held = data.holdout
    if (~held).sum() < labels:
        return None
    made, share = heads(data, seed, recipes)
    return Outcome(
        {recipe: np.abs(trained.final[held] - data.y[held]) for recipe, trained in made.items()},
        data.groups[held] + seed * (whole.groups.max() + 1),
        share,
        sum((trained.metrics.calibration or {})["kept"] for trained in made.values()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=available())
    parser.add_argument("--labels", nargs="+", type=int, default=list(LABELS))
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--processes", type=int, default=1, help="with a core each, if several")
    args = parser.parse_args()
    recipes = tuple(dict.fromkeys((*RECIPES, *args.recipes)))
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    print(f"Seeds {seeds[0]} to {seeds[-1]}.\n")
    print("| set | labels | " + " | ".join((*recipes, "auto")) + " | share "
          "| auto less the better | on these draws | stretched |")  # fmt: skip
    print("|---|--:|" + "--:|" * (len(recipes) + 1) + "---|---|---|--:|", flush=True)
    with ProcessPoolExecutor(
        args.processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=None if args.processes == 1 else one_core,
    ) as pool:
        running = {
            (name, labels): [pool.submit(outcome, name, labels, seed, recipes) for seed in seeds]
            for labels in args.labels
            for name in args.sets
        }
        verdicts: list[tuple[str, str]] = []
        for (name, labels), futures in running.items():
            outcomes = [done for future in futures if (done := future.result()) is not None]
            if outcomes:
                verdicts.append(row(name, labels, outcomes, recipes))
    for what, told in zip(("", " on these draws"), zip(*verdicts, strict=True), strict=True):
        worse, better = told.count("worse"), told.count("better")
        print(f"\nOf {len(told)} rows, `auto` is worse than the better of ridge and city96{what} "
              f"in {worse}, and better than both in {better}.")  # fmt: skip


def one_core() -> None:
    torch.set_num_threads(1)
    threadpool_limits(1)


def over_draws(differences: np.ndarray) -> tuple[str, str]:
    """Mean and Student's 95 % interval of the differences per draw (draws,) in points, and whether
    that is worse (more), better or neither. One draw alone says nothing of the others."""
    low, high = -np.inf, np.inf
    if not differences.any():
        low = high = 0.0
    elif len(differences) > 1:
        low, high = stats.ttest_1samp(differences, 0).confidence_interval()
    verdict = "worse" if low > 0 else "better" if high < 0 else "no difference shown"
    return f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}]", verdict


def row(
    name: str, labels: int, outcomes: list[Outcome], recipes: tuple[str, ...]
) -> tuple[str, str]:
    """Print the row of a set and a number of labels; its verdicts on any draw and on these."""
    together = {
        recipe: np.concatenate([one.errors[recipe] for one in outcomes])
        for recipe in (*recipes, "auto")
    }
    better = min(RECIPES, key=lambda recipe: together[recipe].mean())
    groups = np.concatenate([one.groups for one in outcomes])
    duel = metrics.compare(together["auto"], together[better], groups)
    d = duel.difference
    differences = [one.errors["auto"].mean() - one.errors[better].mean() for one in outcomes]
    told, verdict = over_draws(10 * np.array(differences))
    shown = " | ".join(f"{10 * together[recipe].mean():.3f}" for recipe in (*recipes, "auto"))
    these = f"[{d.low:+.3f}, {d.high:+.3f}]: {duel.verdict}"
    aside = ", kept aside" if name in replay.JUDGES else ""
    shares = [one.share for one in outcomes]
    print(
        f"| {name}{aside} | {labels:,} | {shown} | {min(shares):.2f}-{max(shares):.2f} "
        f"| {told} ({better}): {verdict} | {these} "
        f"| {sum(one.stretched for one in outcomes)} of {len(outcomes) * (len(recipes) + 1)} |",
        flush=True,
    )
    return verdict, duel.verdict


if __name__ == "__main__":
    main()
