"""What a strategy of asking would have cost: known labels are hidden, and bought back one by one.

Every seed keeps a test split apart, by groups, before anything is offered: the same for all
strategies, and never in the pool. The first labels are drawn at random, the same for all strategies
too. From then on each strategy picks from the pool, in batches, with the code the queues use; the
live head is refitted as the live process refits it, and judged on the test split. Strategies
differ in nothing but what they pick.

Scores are in 0–1 here; the report speaks of points of 0–10 and of shares of wrong decisions.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import Invalid, NotTrainable
from tastemaker.learning.posterior import Projection, posterior_sd, project
from tastemaker.learning.ridge import fit_ridge
from tastemaker.learning.selection import (
    SHARPNESS,
    Mix,
    Rows,
    diverse,
    mixed,
    near_threshold,
)
from tastemaker.replay.shared_out import shared_out

Array = NDArray[Any]

TEST_SHARE = 0.25
MOST_OFFERED = 8  # images offered at once per label wanted, where few have one
FEWEST_TESTED = 20  # labelled images in the test split: below, a rate means nothing


@dataclass(frozen=True)
class LabelledSet:
    """x (N, D) float32; scores (N,) in [0, 1], NaN where unlabelled; groups (N,) integers, equal
    for images of one source."""

    x: NDArray[np.float32]
    scores: NDArray[np.float64]
    groups: NDArray[np.intp]


@dataclass(frozen=True)
class Plan:
    """How to replay. `threshold` is in 0–1; the head is refitted after every `batch` labels; the
    first `start` labels are drawn at random. Seeds are counted from `first_seed`."""

    strategies: tuple[str, ...] = ("mixed", "random")
    seeds: int = 10
    budget: int = 600
    threshold: float = 0.5
    batch: int = 25
    start: int = 50
    first_seed: int = 0

    @property
    def seed_numbers(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)


@dataclass(frozen=True)
class Pool:
    """What a strategy sees when it must pick `count` rows: never a hidden label.

    `scores` and `sd` (N,) and `penalty` are the live model's, None where the labels so far teach
    nothing. `sd` is computed at the first use: that is half the time of a run.
    """

    features: Array
    free: NDArray[np.bool_]
    labelled: Rows
    scores: Array | None
    compute_sd: Callable[[], Array] | None
    penalty: float | None
    threshold: float
    count: int
    seed: int

    @cached_property
    def sd(self) -> Array | None:
        return None if self.compute_sd is None else self.compute_sd()


# --- strategies --------------------------------------------------------------------------------


def pick_mixed(pool: Pool, mix: Mix | None = None, sharpness: float = SHARPNESS) -> Rows:
    """The product's own queue, by default with its own shares."""
    picks = mixed(
        pool.features, pool.free, pool.free, pool.count,
        labelled=pool.labelled, scores=pool.scores, sd=pool.sd, penalty=pool.penalty,
        threshold=pool.threshold, mix=mix, sharpness=sharpness, seed=pool.seed,
    )  # fmt: skip
    return np.array([pick.row for pick in picks], np.intp)


def pick_random(pool: Pool) -> Rows:
    rng = np.random.default_rng(pool.seed)
    return rng.permutation(np.flatnonzero(pool.free))[: pool.count]


def pick_threshold(pool: Pool) -> Rows:
    """Drawn at random, more often the nearer to the threshold."""
    if pool.scores is None or pool.sd is None:
        return pick_random(pool)
    rng = np.random.default_rng(pool.seed)
    return near_threshold(pool.scores, pool.sd, pool.free, pool.count, pool.threshold, rng)


def pick_diverse(pool: Pool) -> Rows:
    rng = np.random.default_rng(pool.seed)
    return diverse(pool.features, pool.labelled, pool.free, pool.count, rng)


def _greedy(rank: Callable[[Pool, Array], Any]) -> Callable[[Pool], Rows]:
    """Takes what ranks highest, by the pool and the live model's scores."""

    def pick(pool: Pool) -> Rows:
        if pool.scores is None:
            return pick_random(pool)
        rows = np.flatnonzero(pool.free)
        keys = rank(pool, pool.scores)[rows]
        return rows[np.argsort(-keys, kind="stable")[: pool.count]]

    return pick


Pick = Callable[[Pool], Rows]

STRATEGIES: dict[str, Pick] = {
    "mixed": pick_mixed,
    "random": pick_random,
    "highest": _greedy(lambda pool, scores: scores),
    "threshold-greedy": _greedy(lambda pool, scores: -np.abs(scores - pool.threshold)),
    "threshold": pick_threshold,
    "variance": _greedy(lambda pool, scores: pool.sd),
    "diverse": pick_diverse,
}


def strategy(name: str, more: Mapping[str, Pick] | None = None) -> Pick:
    """By name, from STRATEGIES or `more`, or as a mix of shares `diverse/threshold/control` such
    as `20/60/20`."""
    if pick := STRATEGIES.get(name) or (more or {}).get(name):
        return pick
    try:
        shares = [float(part) for part in name.split("/")]
        if len(shares) == 3 and min(shares) >= 0 and math.isclose(sum(shares), 100):
            return lambda pool: pick_mixed(pool, Mix(*shares))
    except ValueError:
        pass
    raise Invalid(
        f"There is no strategy “{name}”.",
        f"There are: {', '.join(STRATEGIES)}, and mixes such as 20/60/20 "
        "(diverse/threshold/control).",
    )


# --- one run -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One strategy under one seed. `mae` (points of 0–10) and `error` (share on the wrong side of
    the threshold) were measured on the rows `test` after so many `labels`, the first of `picks`."""

    strategy: str
    seed: int
    test: Rows
    picks: Rows
    labels: NDArray[np.intp]
    mae: NDArray[np.float64]
    error: NDArray[np.float64]


def split(data: LabelledSet, seed: int) -> tuple[Rows, NDArray[np.bool_]]:
    """The labelled rows that test, ascending, and the mask of the pool, which holds no row of a
    tested group. Whole groups in random order test until they hold a quarter of the labels."""
    labelled = np.isfinite(data.scores)
    names, at = np.unique(data.groups, return_inverse=True)
    sizes = np.bincount(at[labelled], minlength=len(names))
    order = np.random.default_rng((seed, 0)).permutation(len(names))
    enough = int(np.searchsorted(np.cumsum(sizes[order]), TEST_SHARE * labelled.sum())) + 1
    tested = np.isin(at, order[:enough])
    return np.flatnonzero(tested & labelled), ~tested


def run(
    data: LabelledSet,
    projection: Projection,
    plan: Plan,
    name: str,
    seed: int,
    more: Mapping[str, Pick] | None = None,
) -> Run:
    """Replay one strategy under one seed; `more` strategies besides the program's own."""
    pick = strategy(name, more)
    test, free = split(data, seed)
    known = np.isfinite(data.scores)
    first = np.random.default_rng((seed, 1)).permutation(np.flatnonzero(free & known))
    picks = [int(row) for row in first[: plan.start]]
    free[picks] = False
    labels, mae, error = [], [], []
    draws = np.random.default_rng((seed, 2))
    while True:
        rows = np.array(picks, np.intp)
        scores, compute_sd, penalty = refit(data, projection, rows)
        guess = data.scores[rows].mean() if scores is None else scores[test]
        labels.append(len(picks))
        mae.append(10 * float(np.mean(np.abs(guess - data.scores[test]))))
        wrong = (guess >= plan.threshold) != (data.scores[test] >= plan.threshold)
        error.append(float(np.mean(wrong)))
        if len(picks) >= plan.budget:
            break
        wanted = min(len(picks) + plan.batch, plan.budget)
        while (missing := wanted - len(picks)) > 0:
            count = missing * min(MOST_OFFERED, math.ceil(free.sum() / (free & known).sum()))
            pool = Pool(
                projection.features, free, rows, scores, compute_sd, penalty, plan.threshold,
                count, int(draws.integers(2**31)),
            )  # fmt: skip
            offered = pick(pool)
            # One by one until so many have a label; one without a label costs nothing.
            offered = offered[: np.searchsorted(np.cumsum(known[offered]), missing) + 1]
            free[offered] = False
            picks += offered[known[offered]].tolist()
    return Run(
        name, seed, test, np.array(picks, np.intp),
        np.array(labels), np.array(mae), np.array(error),
    )  # fmt: skip


def refit(
    data: LabelledSet, projection: Projection, rows: Rows
) -> tuple[Array | None, Callable[[], Array] | None, float | None]:
    """Scores (N,), a function that computes their sd (N,), and penalty of the live head fitted on
    `rows`, as the live process makes them: a labelled image is judged by the fit without its group.
    None while there is nothing to learn."""
    try:
        ridge = fit_ridge(data.x[rows], data.scores[rows], data.groups[rows], link="identity")
    except NotTrainable:
        return None, None, None
    scores = ridge.predict(data.x)
    scores[rows] = ridge.out_of_group
    return scores, partial(posterior_sd, projection, rows, ridge, scores), ridge.penalty


# --- all runs ----------------------------------------------------------------------------------


def replay(
    data: LabelledSet,
    plan: Plan,
    *,
    processes: int | None = None,
    more: Mapping[str, Pick] | None = None,
) -> Iterator[tuple[int, int, Run]]:
    """Every strategy under every seed, as they get done: (done, total, run). Runs are shared out
    over `processes` (default: the cores). The plan may name `more` strategies, which must pickle.
    Seed after seed: broken off by Ctrl-C, what came is of the first ones (see `finished`). Raises
    `Invalid`."""
    plan = planned(data, plan, more)
    projection = project(data.x)
    jobs = [(name, seed) for seed in plan.seed_numbers for name in plan.strategies]
    made = shared_out(_run, (data, projection, plan, more), jobs, processes)
    for done, one in enumerate(made, 1):
        yield done, len(jobs), one


def finished(plan: Plan, runs: list[Run]) -> tuple[Plan, list[Run]]:
    """What is left of a replay that was broken off: a plan with the seeds under which every
    strategy ran, and their runs (none: no seed was finished)."""
    whole = len(runs) // len(plan.strategies)
    return replace(plan, seeds=whole), runs[: whole * len(plan.strategies)]


def _run(
    data: LabelledSet,
    projection: Projection,
    plan: Plan,
    more: Mapping[str, Pick] | None,
    name: str,
    seed: int,
) -> Run:
    return run(data, projection, plan, name, seed, more)


def planned(data: LabelledSet, plan: Plan, more: Mapping[str, Pick] | None = None) -> Plan:
    """The plan with the budget that every seed can afford: the labels outside its test split.
    Raises `Invalid`, with a sentence for the person, where there is nothing to measure."""
    if not plan.strategies:
        raise Invalid("No strategy is named.", f"There are: {', '.join(STRATEGIES)}.")
    for name in plan.strategies:
        strategy(name, more)
    if not 0 < plan.threshold < 1:
        raise Invalid("The threshold is a percentage between 0 and 100.", "50 is the default.")
    labelled = np.isfinite(data.scores)
    count = int(labelled.sum())
    if count == 0:
        raise Invalid("None of the images has a score.", "Score some of them first.")
    if np.ptp(data.scores[labelled]) == 0:
        raise Invalid("All scores are the same, so there is nothing to tell apart.")
    needed = math.ceil(FEWEST_TESTED / TEST_SHARE)
    if count < needed:
        raise Invalid(
            f"Only {count} images have a score; {needed} are needed, a quarter of them to test.",
            "Score a few more.",
        )
    if len(np.unique(data.groups[labelled])) < 2:
        raise Invalid(
            "All scored images are of one source, so none can test what the others teach.",
            "Score images of other sources.",
        )
    affordable = min(
        count - int(labelled[~split(data, seed)[1]].sum()) for seed in plan.seed_numbers
    )
    budget = min(plan.budget, affordable)
    if budget <= plan.start:
        what = "The budget is" if budget == plan.budget else "Besides those that test there are"
        raise Invalid(
            f"{what} {budget} labels, and the first {plan.start} are drawn at random: nothing is "
            "left for a strategy to choose.",
            "Begin with fewer (--start), or score more images of other sources.",
        )
    return replace(plan, budget=budget)
