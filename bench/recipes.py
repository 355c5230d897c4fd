"""What `auto` makes of a line and a network, beside either alone, on hold-outs of real pictures.

    python -m bench recipes                     every set, 30 to 3,000 labels, five seeds
    python -m bench.recipes --sets digits --labels 30 300 --seeds 2 --recipes ridge mlp city96

Every seed draws another hold-out (a quarter, by picture) and other labels. Errors are hold-out
MAE in points of 0-10, the mean over the seeds. `auto` is compared with the better of ridge and
city96 *on the hold-out*, which it cannot see, by the paired bootstrap over pictures; all seeds of
one size are one sample. `share` is the network's part of the logit, lowest to highest. Calibration
is part of every recipe; `stretched` counts where it was kept. How shares are fitted was chosen on
the first three sets with seeds 0-4 and 30 to 300 labels; the pictures of a game had no part in it.
"""

from __future__ import annotations

import argparse

import numpy as np

from app.learning import metrics
from app.learning.blending import blend
from app.learning.descent import fit_by_descent
from app.learning.folds import TrainingSet, split_rows
from app.learning.linear import fit_linear
from app.learning.recipes import recipe_named
from app.learning.training import FEWEST_FOR_DESCENT, Trained, finish
from bench import labelled, replay

FIRST_SEED = 30  # earlier ones were looked at while `auto` was made
LABELS = (30, 100, 300, 1000, 3000)
RECIPES = ("ridge", "city96")


def heads(
    data: TrainingSet, seed: int, recipes: tuple[str, ...] = RECIPES
) -> tuple[dict[str, Trained], float]:
    """A trained head per recipe and of `auto`, by the rule of `train`, which would fit all of them
    again; and the share of the network."""
    split = split_rows(data.x, data.y, data.groups, data.holdout, folds=5, seed=seed)
    fits = {
        name: (fit_linear if name == "ridge" else fit_by_descent)(
            data, split, recipe_named(name, seed=seed)
        )
        for name in recipes
    }
    share, auto = 0.0, fits["ridge"]
    if split.train.sum() >= FEWEST_FOR_DESCENT:
        auto, found = blend(data, split, fits["city96"], fits["ridge"])
        share = found["share"]
    made = {name: finish(data, split, fit) for name, fit in (fits | {"auto": auto}).items()}
    return made, share


def available() -> list[str]:
    aside = [] if replay.available()[replay.ASIDE] else [replay.ASIDE]
    return [*labelled.available(), *aside]


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--sets", nargs="+", default=available())
    parser.add_argument("--labels", nargs="+", type=int, default=list(LABELS))
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    args = parser.parse_args()
    recipes = tuple(dict.fromkeys((*RECIPES, *args.recipes)))
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    print(f"Seeds {seeds[0]} to {seeds[-1]}.\n")
    print("| set | labels | " + " | ".join((*recipes, "auto")) + " | share "
          "| auto less the better | stretched |")  # fmt: skip
    print("|---|--:|" + "--:|" * (len(recipes) + 1) + "---|---|--:|")
    verdicts: list[str] = []
    for name in args.sets:
        whole = load(name)
        for labels in args.labels:
            verdicts += row(name, whole, labels, seeds, recipes)
    print(f"\n`auto` is worse than the better of ridge and city96 in {verdicts.count('worse')} of "
          f"{len(verdicts)} rows, and better than both in {verdicts.count('better')}.")  # fmt: skip


def row(
    name: str, whole: TrainingSet, labels: int, seeds: range, recipes: tuple[str, ...]
) -> list[str]:
    """Print the row of a set and a number of labels; its verdict, or nothing if the set is not
    that large."""
    errors: dict[str, list[np.ndarray]] = {}
    groups, shares, stretched = [], [], 0
    for seed in seeds:
        data = labelled.holding_out(whole, labels, seed)
        held = data.holdout
        if (~held).sum() < labels:
            return []
        made, share = heads(data, seed, recipes)
        for recipe, trained in made.items():
            errors.setdefault(recipe, []).append(np.abs(trained.final[held] - data.y[held]))
            stretched += trained.metrics["calibration"]["kept"]
        groups.append(data.groups[held] + seed * (whole.groups.max() + 1))
        shares.append(share)
    together = {recipe: np.concatenate(parts) for recipe, parts in errors.items()}
    better = min(RECIPES, key=lambda recipe: together[recipe].mean())
    duel = metrics.compare(together["auto"], together[better], np.concatenate(groups))
    d = duel.difference
    shown = " | ".join(f"{10 * together[recipe].mean():.3f}" for recipe in (*recipes, "auto"))
    told = f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}] ({better}): {duel.verdict}"
    aside = ", kept aside" if name == replay.ASIDE else ""
    print(
        f"| {name}{aside} | {labels:,} | {shown} | {min(shares):.2f}-{max(shares):.2f} | {told} "
        f"| {stretched} of {len(seeds) * len(made)} |",
        flush=True,
    )
    return [duel.verdict]


if __name__ == "__main__":
    main()
