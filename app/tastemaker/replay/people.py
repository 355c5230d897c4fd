"""Learning curves of several people on the same images: from how few labels is a taste learned?

Each seed keeps a quarter of the images apart, the same for everybody. A person's labels are drawn
at random from the rest, the first n of one order for every n, prior and recipe, and trained on with
the code of a training. A prior of other people is a head trained on the mean of what the others of
the person's group say of images that do not test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tastemaker.errors import Invalid, NotTrainable
from tastemaker.learning import metrics
from tastemaker.learning.prior import Prior
from tastemaker.replay.report import interval
from tastemaker.replay.runs import LabelledSet, split
from tastemaker.replay.shared_out import shared_out

FEWEST_TESTED = 10  # images of a person; fewer rank nothing


@dataclass(frozen=True)
class People:
    """x (N, D) float32; scores (P, N) in [0, 1], NaN where a person rated nothing; test_scores
    (P, N) to judge against; teams (P,), equal for people whose heads may serve each other as
    priors; groups (N,), equal for images of one source."""

    x: NDArray[np.float32]
    scores: NDArray[np.float64]
    test_scores: NDArray[np.float64]
    teams: NDArray[Any]
    groups: NDArray[np.intp]


@dataclass(frozen=True)
class Curves:
    """What to replay: after so many `labels`, by a recipe, from a prior: "none", "others", their
    line "reversed", or a head's line."""

    labels: tuple[int, ...] = (10, 20, 40)
    prior: Prior | str = "none"
    recipe: str = "ridge"
    seeds: int = 3


@dataclass(frozen=True)
class PersonRun:
    """One person under one seed after so many labels. `srocc` is the rank correlation on `test`,
    0 where the head ranks nothing and None where the person's scores do not; `mae` is in points of
    0–10."""

    person: int
    group: Any
    seed: int
    labels: int
    srocc: float | None
    mae: float
    test: tuple[int, ...]
    picks: tuple[int, ...]


def curves(
    people: People, plan: Curves, *, processes: int | None = None
) -> Iterator[tuple[int, int, list[PersonRun]]]:
    """All runs, as they get done: (people done, of so many, runs of one more), seed after seed. A
    person with fewer labels than asked for has no run of that many. Raises `Invalid`."""
    _check(people, plan)
    jobs = [(seed, person) for seed in range(plan.seeds) for person in range(len(people.scores))]
    made = shared_out(runs_of, (people, plan), jobs, processes)
    for done, runs in enumerate(made, 1):
        yield done, len(jobs), runs


def finished(people: People, plan: Curves, done: Sequence[list[PersonRun]]) -> Curves:
    """What is left of curves that were broken off: a plan of the seeds under which everybody is
    done."""
    return replace(plan, seeds=len(done) // len(people.scores))


def runs_of(people: People, plan: Curves, seed: int, person: int) -> list[PersonRun]:
    """The learning curve of one person under one seed."""
    offered = _offered(people, seed)
    test = np.flatnonzero(~offered & np.isfinite(people.test_scores[person]))
    own = people.scores[person]
    rated = np.flatnonzero(offered & np.isfinite(own))
    order = np.random.default_rng((seed, person)).permutation(rated)
    if len(test) < FEWEST_TESTED:
        return []
    priors = _priors(people, plan, offered, person)
    runs = []
    for count in plan.labels:
        if count > len(order):
            continue
        picks = order[:count]
        predicted = predict(people.x, picks, own[picks], people.groups[picks], test, priors, plan)
        truth = people.test_scores[person][test]
        runs.append(
            PersonRun(
                person,
                _plain(people.teams[person]),
                seed,
                count,
                rank_correlation(truth, predicted),
                10 * float(np.mean(np.abs(predicted - truth))),
                tuple(test.tolist()),
                tuple(picks.tolist()),
            )
        )
    return runs


def predict(
    x: NDArray[np.float32],
    picks: NDArray[np.intp],
    y: NDArray[np.float64],
    groups: NDArray[np.intp],
    rows: NDArray[np.intp],
    priors: tuple[Prior, ...],
    plan: Curves,
) -> NDArray[np.float64]:
    """Scores in [0, 1] of `rows` by a head trained on the labels y of `picks`. Labels that
    teach nothing by themselves (one picture, or all scores equal) still say how far to trust the
    priors, and at which level these stand; without priors the scores are the labels' mean."""
    from tastemaker.learning.folds import TrainingSet
    from tastemaker.learning.heads import Head
    from tastemaker.learning.recipes import recipe_named
    from tastemaker.learning.ridge import from_priors
    from tastemaker.learning.training import train

    data = TrainingSet(
        image_ids=picks, x=x[picks], y=y.astype(np.float32), groups=groups,
        holdout=np.zeros(len(picks), bool), priors=priors,
    )  # fmt: skip
    try:
        trained = train(data, recipe_named(plan.recipe))
    except NotTrainable:
        if priors:
            return from_priors(priors, x[picks], y, "logit").predict(x[rows]).astype(np.float64)
        return np.full(len(rows), y.mean())
    return Head(trained.tensors)(x[rows]).astype(np.float64)


def _offered(people: People, seed: int) -> NDArray[np.bool_]:
    """(N,) the images that may teach under a seed; the others test."""
    anybody = np.isfinite(people.scores).any(0) | np.isfinite(people.test_scores).any(0)
    known = np.where(anybody, 0.5, np.nan)
    return split(LabelledSet(people.x, known, people.groups), seed)[1]


def _priors(
    people: People, plan: Curves, offered: NDArray[np.bool_], person: int
) -> tuple[Prior, ...]:
    if isinstance(plan.prior, Prior):
        return (plan.prior,)
    if plan.prior == "none":
        return ()
    others = people.teams == people.teams[person]
    others[person] = False
    theirs = people.scores[others][:, offered]
    some = np.isfinite(theirs).any(0)
    rows = np.flatnonzero(offered)[some]
    mean = np.nanmean(theirs[:, some], 0) if some.any() else np.empty(0)
    found = _line(people.x[rows], mean, people.groups[rows])
    if found is not None and plan.prior == "reversed":
        found = Prior(-found.weights, -found.bias, "reversed")
    return () if found is None else (found,)


def _line(x: NDArray[np.float32], y: NDArray[np.float64], groups: NDArray[Any]) -> Prior | None:
    """The linear head of these labels as a prior; None where they teach nothing."""
    from tastemaker.learning.ridge import fit_ridge

    try:
        weights, bias = fit_ridge(x, y, groups).raw()
    except NotTrainable:
        return None
    return Prior(weights, bias, "others")


def rank_correlation(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> float | None:
    """SROCC; 0 where the predictions rank nothing, None where the truth does not."""
    if np.ptp(truth) == 0:
        return None
    return 0.0 if np.ptp(predicted) == 0 else metrics.spearman(truth, predicted)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _check(people: People, plan: Curves) -> None:
    if not plan.labels or min(plan.labels) < 1:
        raise Invalid("--labels are numbers of 1 or more, such as 10,20,40.")
    if people.x.shape[0] < 2 or not np.isfinite(people.scores).any():
        raise Invalid("Nobody rated any of the images.")
    if isinstance(plan.prior, Prior):
        if len(plan.prior.weights) != people.x.shape[1]:
            raise Invalid(
                f"The prior reads {len(plan.prior.weights):,} numbers, the embeddings have "
                f"{people.x.shape[1]:,}: they are of different encoders.",
                "A prior needs the encoder that made the embeddings.",
            )
    elif plan.prior not in ("none", "others", "reversed"):
        raise Invalid(
            f"There is no prior “{plan.prior}”.", "Say others, none, or a .safetensors file."
        )


# --- the prior of a file ----------------------------------------------------------------------


def prior_of_file(path: Path, x: NDArray[np.float32]) -> tuple[Prior, float]:
    """The head in a checkpoint as a prior, and how far its line is from it (mean absolute error in
    points of 0–10 on the rows x): nothing for a linear head, which is a line already. Any other is
    followed by one on these rows as well as a line can. Raises `Invalid`."""
    from tastemaker.learning.checkpoints import load_checkpoint
    from tastemaker.learning.heads import Head
    from tastemaker.learning.lines import Bends, followed, logit_line

    tensors = load_checkpoint(path, features=x.shape[1]).tensors
    said = Head(tensors)(x)
    if said.ndim != 1:
        raise Invalid(f"{path.name} tells classes apart; a prior gives scores.")
    if np.ptp(said) == 0:
        raise Invalid(f"{path.name} gives every image the same score, so it teaches nothing.")
    try:
        weights, bias = logit_line(tensors, x)
    except Bends:
        weights, bias, _ = followed(said, x)
    prior = Prior(weights, bias, path.name)
    return prior, 10 * float(np.abs(expit(prior.values(x, "logit")) - said).mean())


# --- what is said of it -----------------------------------------------------------------------


def report(people: People, plan: Curves, runs: Sequence[PersonRun]) -> dict[str, Any]:
    """The runs and, for each number of labels, their means, ready for JSON. Intervals (95 %)
    resample people."""
    return {
        "images": len(people.x),
        "people": len(people.scores),
        "seeds": plan.seeds,
        "recipe": plan.recipe,
        "prior": plan.prior.name if isinstance(plan.prior, Prior) else plan.prior,
        "means": [_means(runs, count) for count in plan.labels],
        "runs": [
            {
                "person": run.person, "group": run.group, "seed": run.seed, "labels": run.labels,
                "srocc": run.srocc, "mae": run.mae, "test": list(run.test),
                "picks": list(run.picks),
            }
            for run in runs
        ],
    }  # fmt: skip


def _means(runs: Sequence[PersonRun], count: int) -> dict[str, Any]:
    of_count = [run for run in runs if run.labels == count]
    told: dict[str, Any] = {"labels": count, "people": len({run.person for run in of_count})}
    for name in ("srocc", "mae"):
        by_person: dict[int, list[float]] = {}
        for run in of_count:
            if (value := getattr(run, name)) is not None:
                by_person.setdefault(run.person, []).append(value)
        means = np.array([np.mean(values) for values in by_person.values()])
        told[name] = float(means.mean()) if len(means) else None
        low, high = interval(len(means), partial(_mean, means))
        told[f"{name}_low"], told[f"{name}_high"] = (
            None if end is None else float(end) for end in (low, high)
        )
    return told


def _mean(values: NDArray[np.float64], drawn: NDArray[np.intp]) -> float:
    return float(values[drawn].mean())


def table(result: dict[str, Any]) -> str:
    """The report for a terminal."""
    lines = [
        f"{result['people']:,} people on {result['images']:,} images; {result['recipe']}, prior: "
        f"{result['prior']}; {result['seeds']} seed{'s' * (result['seeds'] != 1)}.",
        "",
        f"{'labels':>6}  {'people':>6}  {'rank correlation':>22}  {'error in points':>22}",
    ]
    for row in result["means"]:
        lines.append(
            f"{row['labels']:>6}  {row['people']:>6}  {_cell(row, 'srocc'):>22}  "
            f"{_cell(row, 'mae'):>22}"
        )
    return "\n".join(lines)


def _cell(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return "–"
    if row[f"{name}_low"] is None:
        return f"{row[name]:.3f}"
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f}–{row[f'{name}_high']:.3f})"
