"""Which recipe wins at how many labels, on hold-outs of real pictures; and what `auto` makes of it.

    python -m bench recipes                     every set, 30 to 3,000 labels, three seeds
    python -m bench.recipes --sets digits --labels 30 300 --seeds 2

Every seed draws another hold-out (a quarter, by picture) and other labels. Errors are hold-out
MAE in points of 0-10, the mean over the seeds. `auto` is compared with the better of ridge and
city96 *on the hold-out*, which it cannot see, by the paired bootstrap over pictures; all seeds of
one size are one sample. Calibration is part of every recipe; `stretched` counts where it was kept.
"""

from __future__ import annotations

import argparse

import numpy as np

from app.learning import metrics
from app.learning.descent import fit_by_descent
from app.learning.folds import TrainingSet, split_rows
from app.learning.linear import fit_linear
from app.learning.recipes import recipe_named
from app.learning.training import FEWEST_FOR_DESCENT, Trained, duel_of_members, errs_less, finish
from bench import labelled

FIRST_SEED = 10  # the rule of `auto` was settled while looking at earlier ones
LABELS = (30, 100, 300, 1000, 3000)
RECIPES = ("ridge", "mlp", "city96")


def heads(data: TrainingSet, seed: int) -> dict[str, Trained]:
    """A trained head per recipe. `auto` publishes one of the others, by the rule of `train`."""
    split = split_rows(data.x, data.y, data.groups, data.holdout, folds=5, seed=seed)
    fits = {"ridge": fit_linear(data, split, recipe_named("ridge", seed=seed))}
    for name in ("mlp", "city96"):
        fits[name] = fit_by_descent(data, split, recipe_named(name, seed=seed))
    made = {name: finish(data, split, fit) for name, fit in fits.items()}
    enough = split.train.sum() >= FEWEST_FOR_DESCENT
    duel = duel_of_members(data, split, fits["city96"], fits["ridge"])
    made["auto"] = made["city96" if enough and errs_less(duel) else "ridge"]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=labelled.available())
    parser.add_argument("--labels", nargs="+", type=int, default=list(LABELS))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    print("| set | labels | " + " | ".join((*RECIPES, "auto")) + " | auto took city96 "
          "| auto less the better | stretched |")  # fmt: skip
    print("|---|--:|" + "--:|" * (len(RECIPES) + 1) + "--:|---|--:|")
    for name in args.sets:
        whole = labelled.load(name)
        for labels in args.labels:
            row(name, whole, labels, args.seeds)


def row(name: str, whole: TrainingSet, labels: int, seeds: int) -> None:
    errors: dict[str, list[np.ndarray]] = {}
    groups, large, stretched = [], 0, 0
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        data = labelled.holding_out(whole, labels, seed)
        held = data.holdout
        if (~held).sum() < labels:
            return  # the set is not that large
        made = heads(data, seed)
        for recipe, trained in made.items():
            errors.setdefault(recipe, []).append(np.abs(trained.final[held] - data.y[held]))
            stretched += recipe != "auto" and trained.metrics["calibration"]["kept"]
        groups.append(data.groups[held] + seed * (whole.groups.max() + 1))
        large += made["auto"].kind == "city96"
    together = {recipe: np.concatenate(parts) for recipe, parts in errors.items()}
    better = min(("ridge", "city96"), key=lambda recipe: together[recipe].mean())
    duel = metrics.compare(together["auto"], together[better], np.concatenate(groups))
    d = duel.difference
    shown = " | ".join(f"{10 * together[recipe].mean():.3f}" for recipe in (*RECIPES, "auto"))
    told = f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}] ({better}): {duel.verdict}"
    print(
        f"| {name} | {labels:,} | {shown} | {large} of {seeds} | {told} "
        f"| {stretched} of {seeds * len(RECIPES)} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
