"""How fast real people's taste is learned, beside today's head, with and without a prior.

    python -m bench people FILE.npz [--people 60] [--seeds 1] [--labels 5,10,20,40,80,150]
        [--recipes auto ridge] [--encoders NAME=FILE.npz …] [--priors none others useless]
        [--today auto]

FILE is that of `tastemaker replay --learn`: embeddings (N, D) and scores (P, N) in 0–10, −1 where a
person rated nothing, and if there are any test_scores (P, N), a second rating to judge by. Other
`embeddings` of the same images, row for row, are --encoders. The code is that of `replay --learn`
too: labels are drawn at random, the same for all heads, the images that do not teach judge, and a
prior is the head of the mean of everybody else on images that do not test. Today's head, to which
all are compared, is the first encoder's `auto` from nothing.

A useless prior is one of random weights, the others' reversed, or one that gives every image 8.8:
none may cost more than two percent of the error. Ratings of people are not part of the program;
without FILE this benchmark does not run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tastemaker.learning.prior import Prior
from tastemaker.replay.labelled_sets import read_people
from tastemaker.replay.people import (
    FEWEST_TESTED,
    Curves,
    People,
    PersonRun,
    rank_correlation,
    runs_of,
)
from tastemaker.replay.report import interval
from tastemaker.replay.shared_out import shared_out

FIRST = "plain"  # what the encoder of FILE is called
USELESS = ("random", "reversed", "constant")
COST = 0.02  # of the error, what a useless prior may cost
Values = dict[int, float]  # person → the mean over the seeds


@dataclass(frozen=True)
class Method:
    """A head to judge: by which encoder, recipe and prior."""

    encoder: str
    recipe: str
    prior: str


Runs = dict[tuple[Method, int], list[PersonRun]]  # of a method after so many labels


def plan_of(method: Method, labels: tuple[int, ...], x: np.ndarray, seed: int) -> Curves:
    """What `replay --learn` would do; a prior of random weights is another one under each seed."""
    prior: Prior | str = method.prior
    if method.prior == "random":
        weights = np.random.default_rng(seed).normal(size=x.shape[1])
        weights /= (x @ weights).std()
        prior = Prior(weights.astype(np.float32), -float((x @ weights).mean()), "random")
    if method.prior == "constant":
        prior = Prior(np.zeros(x.shape[1], np.float32), 2.0, "constant")
    return Curves(labels, prior, method.recipe)


def job(
    encoders: dict[str, People], labels: tuple[int, ...], method: Method, seed: int, person: int
) -> list[PersonRun]:
    people = encoders[method.encoder]
    return runs_of(people, plan_of(method, labels, people.x, seed), seed, person)


def methods_of(
    encoders: Sequence[str], recipes: Sequence[str], priors: Sequence[str], today: str
) -> list[Method]:
    """Today's head first; useless priors are tried with the first recipe of the first encoder."""
    first = Method(FIRST, today, "none")
    useful = [prior for prior in priors if prior != "useless"]
    made = [first, *(Method(e, r, p) for e in encoders for r in recipes for p in useful)]
    if "useless" in priors:
        made += [Method(FIRST, recipes[0], prior) for prior in ("none", *USELESS)]
    return list(dict.fromkeys(made))


# ---------------------------------------------------------------- means over people


def by_person(runs: Sequence[PersonRun], value: Callable[[PersonRun], float | None]) -> Values:
    """The mean over the seeds of each person, of runs where there is a value."""
    found: defaultdict[int, list[float]] = defaultdict(list)
    for run in runs:
        if (one := value(run)) is not None:
            found[run.person].append(one)
    return {person: float(np.mean(values)) for person, values in found.items()}


def shown(several: Iterable[float], form: str) -> str:
    """The mean and its 95 % interval over people."""
    values = np.array(list(several))
    if not len(values):
        return ""
    low, high = interval(len(values), lambda drawn: float(values[drawn].mean()))
    ends = "" if low is None else f" [{format(low, form)}, {format(high, form)}]"
    return format(float(values.mean()), form) + ends


def paired(one: Values, other: Values) -> tuple[np.ndarray, np.ndarray]:
    both = sorted(one.keys() & other.keys())
    return np.array([one[p] for p in both]), np.array([other[p] for p in both])


def ratio(one: Values, other: Values) -> tuple[float, float, float]:
    """The mean of one ÷ that of the other over the people of both, and its 95 % interval."""
    above, below = paired(one, other)
    low, high = interval(len(above), lambda drawn: float(above[drawn].mean() / below[drawn].mean()))
    value = float(above.mean() / below.mean())
    return value, value if low is None else float(low), value if high is None else float(high)


def rank(run: PersonRun) -> float | None:
    return run.srocc


def error(run: PersonRun) -> float:
    return run.mae


def of_mean(people: People, run: PersonRun) -> float:
    """The error of the mean of the labels, in points."""
    mean = people.scores[run.person][list(run.picks)].mean()
    return 10 * float(np.abs(people.test_scores[run.person][list(run.test)] - mean).mean())


def again(people: People, run: PersonRun) -> tuple[float | None, float] | None:
    """The person's other rating of what tests, as if it were a prediction: SROCC and error."""
    test = np.array(run.test)
    said, truth = people.scores[run.person][test], people.test_scores[run.person][test]
    both = np.isfinite(said)
    if both.sum() < FEWEST_TESTED or np.array_equal(said[both], truth[both]):
        return None
    error = 10 * float(np.abs(said[both] - truth[both]).mean())
    return rank_correlation(truth[both], said[both]), error


# ---------------------------------------------------------------- what is printed


def table(runs: Runs, methods: Sequence[Method], labels: Sequence[int], people: People) -> None:
    today = methods[0]
    print("| encoder | recipe | prior | labels | SROCC | error in points | SROCC less today's "
          "| error ÷ today's |")  # fmt: skip
    print("|---|---|---|--:|--:|--:|--:|--:|", flush=True)
    for count in labels:
        base = runs[today, count]
        if not base:
            continue
        mean = by_person(base, partial(of_mean, people))
        now = by_person(base, error)
        print(f"| | the mean of the labels | | {count} | | "
              f"{shown(mean.values(), '.3f')} | | {percent(ratio(mean, now))} |")  # fmt: skip
        for method in methods:
            mine = runs[method, count]
            ranks, errors = by_person(mine, rank), by_person(mine, error)
            less = ""
            if method != today:
                one, other = paired(ranks, by_person(base, rank))
                less = shown(one - other, "+.3f")
            against = "" if method == today else percent(ratio(errors, now))
            print(f"| {method.encoder} | {method.recipe} | {method.prior} | {count} | "
                  f"{shown(ranks.values(), '.3f')} | "
                  f"{shown(errors.values(), '.3f')} | {less} | {against} |")  # fmt: skip
    other = {run.person: told for run in runs[today, labels[0]] if (told := again(people, run))}
    if other:
        ranks = [told[0] for told in other.values() if told[0] is not None]
        errors = [told[1] for told in other.values()]
        print(f"| | the person's own other rating | | | {shown(ranks, '.3f')} | "
              f"{shown(errors, '.3f')} | | |")  # fmt: skip


def percent(three: tuple[float, float, float]) -> str:
    value, low, high = (f"{100 * (each - 1):+.1f}" for each in three)
    return f"{value} % [{low}, {high}]"


def goals(runs: Runs, methods: Sequence[Method], labels: Sequence[int]) -> None:
    """What is asked of learning from few keys, as far as it was measured."""
    today = methods[0]

    def ranks(method: Method, count: int) -> float:
        return float(np.mean(list(by_person(runs[method, count], rank).values())))

    print()
    for method in methods:
        if method.prior == "others" and {10, 20} <= set(labels):
            mine, theirs = ranks(method, 10), ranks(today, 20)
            print(f"- {words(method)}: SROCC at 10 labels {mine:.3f}, today's at 20 {theirs:.3f}: "
                  f"{'met' if mine >= theirs else 'missed'}.")  # fmt: skip
        if method.prior == "none" and method.encoder != today.encoder and 40 in labels:
            mine, theirs = ranks(method, 40), 1.08 * ranks(today, 40)
            print(f"- {words(method)}: SROCC at 40 labels {mine:.3f}, 1.08 × today's {theirs:.3f}: "
                  f"{'met' if mine >= theirs else 'missed'}.")  # fmt: skip
    for method in methods[1:]:
        if method.prior in USELESS:
            plain = replace(method, prior="none")
            costs = {
                count: ratio(
                    by_person(runs[method, count], error), by_person(runs[plain, count], error)
                )
                for count in labels
                if runs[plain, count]
            }
            worst = max(value for value, _, _ in costs.values()) - 1
            told = ", ".join(f"{count}: {percent(cost)}" for count, cost in costs.items())
            print(f"- A {method.prior} prior costs of the error at {told}; at most "
                  f"{100 * COST:.0f} %: {'met' if worst <= COST else 'missed'}.")  # fmt: skip
            continue
        worse = [
            count
            for count in labels
            if runs[today, count]
            and ratio(by_person(runs[method, count], error), by_person(runs[today, count], error))[
                1
            ]
            > 1
        ]
        where = f"worse than today's at {', '.join(map(str, worse))}" if worse else "never worse"
        print(f"- {words(method)}: the error is {where} (beyond the interval).")


def words(method: Method) -> str:
    return f"{method.encoder}, {method.recipe}, prior {method.prior}"


# ---------------------------------------------------------------- the run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--people", type=int, default=60, help="drawn at random, of those enough rated"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--labels", default="5,10,20,40,80,150")
    parser.add_argument("--recipes", nargs="+", default=["auto", "ridge"])
    parser.add_argument("--encoders", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--priors", nargs="+", default=["none", "others"],
                        choices=["none", "others", "useless"])  # fmt: skip
    parser.add_argument("--today", default="auto", help="the recipe of today's head")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--json", type=Path, help="every run, to be compared with others")
    args = parser.parse_args()
    labels = tuple(sorted({int(count) for count in args.labels.split(",")}))
    people = read_people(args.file)
    encoders = {FIRST: people} | {
        name: replace(people, x=embeddings(Path(path), len(people.x)))
        for name, _, path in (each.partition("=") for each in args.encoders)
    }
    rated = np.isfinite(people.scores).sum(1)
    enough = np.flatnonzero(rated * 0.7 > max(labels))
    who = np.random.default_rng(0).permutation(enough)[: args.people].tolist()
    if not who:
        sys.exit(f"Nobody rated enough images to learn from {max(labels)}; give fewer --labels.")
    methods = methods_of(list(encoders), args.recipes, args.priors, args.today)

    jobs = [
        (method, seed, person) for seed in range(args.seeds) for person in who for method in methods
    ]
    runs: Runs = defaultdict(list)
    start = time.monotonic()
    made = shared_out(job, (encoders, labels), jobs, args.processes)
    for done, ((method, _, _), several) in enumerate(zip(jobs, made, strict=True), 1):
        for run in several:
            runs[method, run.labels].append(run)
        left = (time.monotonic() - start) / done * (len(jobs) - done)
        print(f"\r{done} of {len(jobs)}, {left:4.0f} s left ", end="", file=sys.stderr)
    print(file=sys.stderr)

    widths = ", ".join(f"{name} {people.x.shape[1]:,}" for name, people in encoders.items())
    print(f"{len(who)} of {len(rated)} people on {len(people.x)} images, {args.seeds} seed"
          f"{'s' * (args.seeds > 1)}; features: {widths}. In brackets 95 % intervals over people. "
          f"Today's head is {words(methods[0])}.\n")  # fmt: skip
    table(runs, methods, labels, people)
    goals(runs, methods, labels)
    if args.json:
        args.json.write_text(json.dumps([told(*each) for each in runs.items()]))


def told(key: tuple[Method, int], several: list[PersonRun]) -> dict[str, Any]:
    method, count = key
    return {
        "encoder": method.encoder, "recipe": method.recipe, "prior": method.prior, "labels": count,
        "runs": [[run.person, run.seed, run.srocc, run.mae] for run in several],
    }  # fmt: skip


def embeddings(path: Path, rows: int) -> np.ndarray:
    """The vectors of another encoder, of as many images."""
    with np.load(path, allow_pickle=False) as file:
        x = file["embeddings"].astype(np.float32)
    if len(x) != rows:
        sys.exit(f"{path.name} has {len(x)} rows, the other file {rows}: they are of other images.")
    return x


if __name__ == "__main__":
    main()
