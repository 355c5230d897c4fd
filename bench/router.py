"""A router of photographs and drawings with two scorers against one scorer on the mix.

    python -m bench router [--labels N] [--draws N]

Photographs and stamps of `bench.labelled`, each with a pretended taste. So many labels are
drawn, half of each set; the router's classifier and its two scorers, and the one scorer, learn from
the same ones. On all other pictures each is cut where it finds four fifths of those worth 6 points
or more, and its false positives are counted: the share of what it lets pass. The difference is over
draws, with its 95 % interval.
"""

import argparse

import numpy as np
from scipy.stats import t

from bench.labelled import STAMPS, load
from tastemaker.filtering.router import comparable
from tastemaker.learning.classifier import ClassData
from tastemaker.learning.classifier import train as train_classes
from tastemaker.learning.folds import TrainingSet
from tastemaker.learning.heads import Head
from tastemaker.learning.recipes import recipe_named
from tastemaker.learning.training import train

THRESHOLD, RECALL = 0.6, 0.8
WAYS = ("one scorer", "router, as scored", "router, comparable", "router, comparable, soft",
        "two scorers, told the truth")  # fmt: skip


def main() -> str:
    options = argparse.ArgumentParser(prog="python -m bench router")
    options.add_argument("--labels", type=int, nargs="*", default=[100, 400])
    options.add_argument("--draws", type=int, default=10)
    given = options.parse_args()
    if not STAMPS.is_dir():
        return f"{STAMPS} is not there: apt-get install tuxpaint-stamps-default"
    sets = [load("photographs"), load("stamps")]
    lines = []
    for labels in given.labels:
        found = np.array([_drawn(sets, labels, seed) for seed in range(given.draws)])
        lines += [
            f"{labels} labels, {given.draws} draws:", "",
            "| | false positives of what passes | less than one scorer |", "|---|--:|--:|",
        ]  # fmt: skip
        for k, way in enumerate(WAYS):
            less = found[:, 0] - found[:, k]
            half = t.ppf(0.975, len(less) - 1) * less.std(ddof=1) / np.sqrt(len(less))
            told = f"{100 * less.mean():+.1f} ± {100 * half:.1f} points" if k else ""
            lines.append(f"| {way} | {100 * found[:, k].mean():.1f} % | {told} |")
        lines.append("")
    return "\n".join(lines)


def _drawn(sets: list[TrainingSet], labels: int, seed: int) -> list[float]:
    """The false positives of each way, as a share of what passes."""
    dice = np.random.default_rng(seed)
    x = np.concatenate([one.x for one in sets])
    y = np.concatenate([one.y for one in sets])
    kind = np.repeat([0, 1], [len(one.y) for one in sets])
    first = int(sets[0].groups.max()) + 1
    groups = np.concatenate([sets[0].groups, sets[1].groups + first])
    known = np.zeros(len(y), bool)
    for k in (0, 1):
        names = dice.permutation(np.unique(groups[kind == k]))
        mine = dice.permutation(np.flatnonzero(np.isin(groups, names[: len(names) // 2])))
        known[mine[: labels // 2]] = True
    # Pictures whose relatives taught are left out: near-duplicates of a label flatter everybody.
    rest = np.flatnonzero(~np.isin(groups, groups[known]))

    def learned(rows: np.ndarray) -> Head:
        data = TrainingSet(rows, x[rows], y[rows], groups[rows], np.zeros(len(rows), bool))
        return Head(train(data, recipe_named("ridge", seed=seed)).tensors)

    one = learned(np.flatnonzero(known))
    each = [learned(np.flatnonzero(known & (kind == k))) for k in (0, 1)]
    rows = np.flatnonzero(known)
    data = TrainingSet(rows, x[rows], y[rows], groups[rows], np.zeros(len(rows), bool))
    truth = np.stack([kind[rows] == 0, kind[rows] == 1], axis=1)
    classes = ClassData(data, truth, (0, 1), ("photo", "drawing"), (1.0, 1.0))
    tells = Head(train_classes(classes, recipe_named("auto", seed=seed)).tensors)
    p = tells(x[rest])
    plain = np.stack([head(x[rest]) for head in each], axis=1)
    spread = [np.percentile(head(x[kind == k]), range(101)) for k, head in enumerate(each)]
    alike = np.stack(
        [comparable(plain[:, k], spread[k].tolist(), THRESHOLD) for k in (0, 1)], axis=1
    )
    at, likeliest = np.arange(len(rest)), p.argmax(axis=1)
    scores = [
        one(x[rest]), plain[at, likeliest], alike[at, likeliest], (p * alike).sum(axis=1),
        plain[at, kind[rest]],
    ]  # fmt: skip
    return [_false_positives(score, y[rest]) for score in scores]


def _false_positives(scores: np.ndarray, y: np.ndarray) -> float:
    good = y >= THRESHOLD
    cut = np.quantile(scores[good], 1 - RECALL)
    passing = scores >= cut
    return float((passing & ~good).sum() / passing.sum())


if __name__ == "__main__":
    print(main())
