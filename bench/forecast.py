"""What more labels were forecast to bring, against what they then brought.

    python -m bench.forecast [--seeds 8] [--first-seed 100] [--people FILE.npz …] [--fit] [SET …]

Of each labelled set (see `bench.replay`) a quarter of the groups tests. After 50, 100, 200 and 300
labels drawn at random from the rest, the program forecasts by how much the error falls with 50, 100
and 200 more; then those are drawn too, and the linear head is judged on the test images before and
after. What a test measures has an error of its own, so the interval that is judged is the
forecast's widened by the standard error of that difference.

A file of people (the contract of `replay --learn`) gives three kinds of taste: each person, the
means of ten, and the mean of all; `--prior others` starts their heads from that of everybody else.
`--fit` prints `COMMON` as fitted on these curves instead.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

from bench import replay
from tastemaker.learning.folds import TrainingSet, split_rows
from tastemaker.learning.forecast import (
    AHEAD,
    WITHIN,
    Common,
    Mixture,
    SizedErrors,
    errors_by_size,
    fit_law,
)
from tastemaker.learning.prior import Prior
from tastemaker.learning.ridge import fit_ridge, ridge_or_none
from tastemaker.replay.labelled_sets import read_people
from tastemaker.replay.runs import LabelledSet
from tastemaker.replay.shared_out import shared_out

AFTER = (50, 100, 200, 300)  # labels
TEST_SHARE = 0.25
TEAM = 10  # people whose mean is a taste


@dataclass(frozen=True)
class Taste:
    """A labelled set of a `kind`; `others` (N,) are other people's scores, whose head is
    a prior."""

    kind: str
    data: LabelledSet
    others: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Outcome:
    """A forecast after `labels` and what came: `more` labels brought `gain` points, give or take
    the standard error `unsure` of the test."""

    kind: str
    labels: int
    measured: SizedErrors
    more: int
    gain: float
    unsure: float

    def mixture(self, common: Common | None = None) -> Mixture:
        return fit_law(self.measured, common).gain(self.labels, self.more)


def outcomes(tastes: list[Taste], number: int, seed: int) -> list[Outcome]:
    """All forecasts of one taste under one seed."""
    taste = tastes[number]
    x, y, groups = taste.data.x, taste.data.scores, taste.data.groups
    rng = np.random.default_rng((seed, number))
    known = np.flatnonzero(np.isfinite(y))
    names = rng.permutation(np.unique(groups[known]))
    tests = np.isin(groups[known], names[: round(TEST_SHARE * len(names))])
    test, pool = known[tests], rng.permutation(known[~tests])
    priors = _priors(taste, test)
    errors: dict[int, NDArray[np.float64]] = {}

    def after(labels: int) -> NDArray[np.float64]:
        if labels not in errors:
            rows = pool[:labels]
            ridge = ridge_or_none(x[rows], y[rows], groups[rows], priors=priors)
            scores = ridge.predict(x[test]) if ridge else np.full(len(test), y[rows].mean())
            errors[labels] = 10 * np.abs(scores - y[test])
        return errors[labels]

    made = []
    for labels in AFTER:
        if labels + AHEAD[0] > len(pool):
            break
        measured = _measured(x, y, groups, pool[:labels], priors)
        for more in AHEAD:
            if labels + more <= len(pool):
                fell = after(labels) - after(labels + more)
                unsure = _standard_error(fell, groups[test])
                made.append(Outcome(taste.kind, labels, measured, more, float(fell.mean()), unsure))
    return made


def _priors(taste: Taste, test: NDArray[np.intp]) -> tuple[Prior, ...]:
    if taste.others is None:
        return ()
    rows = np.setdiff1d(np.flatnonzero(np.isfinite(taste.others)), test)
    head = fit_ridge(taste.data.x[rows], taste.others[rows], taste.data.groups[rows])
    return (Prior(*head.raw(), name="others"),)


def _measured(
    x: NDArray[np.float32],
    y: NDArray[np.float64],
    groups: NDArray[np.intp],
    rows: NDArray[np.intp],
    priors: tuple[Prior, ...],
) -> SizedErrors:
    data = TrainingSet(
        image_ids=rows, x=x[rows], y=y[rows].astype(np.float32), groups=groups[rows],
        holdout=np.zeros(len(rows), bool), priors=priors,
    )  # fmt: skip
    split = split_rows(data.x, data.y, data.groups, data.holdout, folds=None, seed=0)
    return errors_by_size(data, split)


def _standard_error(values: NDArray[np.float64], groups: NDArray[np.intp]) -> float:
    """Of the mean of values (n,), by groups."""
    at = np.unique(groups, return_inverse=True)[1].ravel()
    sums = np.bincount(at, weights=values - values.mean())
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(values))


# --- the tastes of a file of people --------------------------------------------------------------


def tastes_of(path: Path, prior: bool) -> Iterator[Taste]:
    """Each person, means of ten, and the mean of all; with a `prior`, the first two alone."""
    people = read_people(path)
    title = f"{path.stem}{', prior of others' if prior else ''}"
    count = len(people.scores)

    def mean_of(rows: NDArray[np.intp]) -> NDArray[np.float64]:
        known = np.isfinite(people.scores[rows])
        times = known.sum(0)
        total = np.where(known, people.scores[rows], 0).sum(0)
        return np.where(times > 0, total / np.maximum(times, 1), np.nan)

    teams = [np.arange(count)[first : first + TEAM] for first in range(0, count - TEAM + 1, TEAM)]
    kinds = [("each", [np.array([person]) for person in range(count)]), ("means of ten", teams)]
    for kind, members in kinds if count > TEAM else kinds[:1]:
        for rows in members:
            others = mean_of(np.setdiff1d(np.arange(count), rows)) if prior else None
            data = LabelledSet(people.x, mean_of(rows), people.groups)
            yield Taste(f"{title}: {kind}", data, others)
    if not prior and count > TEAM:
        everybody = LabelledSet(people.x, mean_of(np.arange(count)), people.groups)
        yield Taste(f"{title}: mean of all", everybody)


# --- what is said of it --------------------------------------------------------------------------


def row(title: str, made: list[Outcome]) -> str:
    """A line of the table: how many of the intervals held, and how wide they are."""
    inside, halves, judged, expected = [], [], [], []
    for each in made:
        mixture = each.mixture()
        ends = [(1 + sign * WITHIN) / 2 for sign in (-1, 1)]
        low, high = (mixture.quantile(end, each.unsure) for end in ends)
        inside.append(low <= each.gain <= high)
        judged.append((high - low) / 2)
        halves.append((mixture.quantile(ends[1]) - mixture.quantile(ends[0])) / 2)
        expected.append(mixture.expected())
    gains = np.array([each.gain for each in made])
    naive = np.quantile(np.abs(gains), WITHIN)
    return (
        f"| {title} | {len(made)} | {np.mean(expected):.3f} | {gains.mean():.3f} | "
        f"{100 * np.mean(inside):.0f} % | {np.mean(halves):.3f} | {np.mean(judged):.3f} | "
        f"{naive:.3f} |"
    )


HEAD = (
    "| tastes | forecasts | gain forecast | gain measured | intervals that held | "
    "± of the forecast | ± with the test's | ± of “no gain” |\n|---|--:|--:|--:|--:|--:|--:|--:|"
)


def table(made: list[Outcome]) -> str:
    kinds = list(dict.fromkeys(each.kind for each in made))
    lines = [HEAD, *(row(kind, [each for each in made if each.kind == kind]) for kind in kinds)]
    for labels in AFTER:
        if some := [each for each in made if each.labels == labels]:
            lines.append(row(f"after {labels} labels", some))
    return "\n".join([*lines, row("**all**", made)])


# --- fitting what curves have in common ----------------------------------------------------------

WIDELY = 0.02  # of a forecast: what a hyperparameter's distance from BEFORE counts
BEFORE = Common(
    fall=(0.9, 0.25), log_power=(math.log(0.3), 0.4), straying=0.1, settling=1.0, unshared=0.2,
    drawing=0.2, steadying=1.3, unusual=0.1,
)  # fmt: skip


def fit(made: list[Outcome]) -> Common:
    """The `Common` under which what came was most probable, every kind of taste counting alike."""
    kinds = [each.kind for each in made]
    share = np.array([1 / kinds.count(each.kind) for each in made])
    share /= share.sum()

    def loss(vector: NDArray[np.float64]) -> float:
        common = _common(vector)
        logs = [_log_density(each, common) for each in made]
        return float(-(share @ logs) + WIDELY / 2 * np.sum((vector - start) ** 2))

    start = _vector(BEFORE)
    simplex = np.vstack([start, start + 0.4 * np.eye(len(start))])
    options = {"maxfev": 400, "initial_simplex": simplex}
    return _common(minimize(loss, start, method="Nelder-Mead", options=options).x)


def _log_density(each: Outcome, common: Common) -> float:
    mixture = each.mixture(common)
    sd = np.hypot(mixture.sd, each.unsure)
    logs = -0.5 * ((each.gain - mixture.mean) / sd) ** 2 - np.log(sd)
    return float(logsumexp(logs, b=mixture.weight)) + math.log(each.measured.constant.mean())


def _vector(common: Common) -> NDArray[np.float64]:
    (fall, falls), (power, powers) = common.fall, common.log_power
    rest = [getattr(common, each.name) for each in fields(common)[2:]]
    return np.array([fall, math.log(falls), power, math.log(powers), *np.log(rest)])


def _common(vector: NDArray[np.float64]) -> Common:
    fall, falls, power, powers, *rest = vector.tolist()
    scales = {
        each.name: math.exp(value) for each, value in zip(fields(Common)[2:], rest, strict=True)
    }
    return replace(
        BEFORE, fall=(fall, math.exp(falls)), log_power=(power, math.exp(powers)), **scales
    )


# --- the run -------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="*", default=list(replay.available()))
    parser.add_argument("--people", type=Path, action="append", default=[])
    parser.add_argument("--people-seeds", type=int, default=1)
    parser.add_argument("--prior", choices=("none", "others"), default="none")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--fit", action="store_true")
    args = parser.parse_args()
    missing = replay.available()
    made: list[Outcome] = []
    for name in args.sets:
        if missing[name]:
            print(f"{name} was not made: {missing[name]}\n")
            continue
        made += _run(name, [Taste(name, replay.load(name))], args, args.seeds)
    for path in args.people:
        tastes = list(tastes_of(path, args.prior == "others"))
        made += _run(path.stem, tastes, args, args.people_seeds)
    print(
        f"After {', '.join(map(str, AFTER))} labels, for {', '.join(map(str, AHEAD))} more; seeds "
        f"{args.first_seed} to {args.first_seed + args.seeds - 1}. Points of 0–10; intervals are "
        f"{WITHIN:.0%}. “No gain” is the forecast 0, as wide as holds {WITHIN:.0%} of what came, "
        "the test's error included.\n"
    )
    print(fit(made) if args.fit else table(made))


def _run(name: str, tastes: list[Taste], args: argparse.Namespace, seeds: int) -> list[Outcome]:
    jobs = [
        (number, seed)
        for seed in range(args.first_seed, args.first_seed + seeds)
        for number in range(len(tastes))
    ]
    made: list[Outcome] = []
    for done, some in enumerate(shared_out(outcomes, (tastes,), jobs, args.processes), 1):
        made += some
        print(f"\r{name}: {done} of {len(jobs)} ", end="", file=sys.stderr)
    print(file=sys.stderr)
    return made


if __name__ == "__main__":
    main()
