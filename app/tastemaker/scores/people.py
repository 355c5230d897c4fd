"""How people score: how many images, how high beside the others, how far apart any two are.

Each person scores on their own. Their scores of the same images, compared, tell a strict person
from a careless one, which the aggregated label hides. Everything is in points of 0–10.
"""

from dataclasses import dataclass
from datetime import datetime
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sqlmodel import Session, col

from tastemaker import scores
from tastemaker.database.tables import Annotator, Project, ScoreEvent
from tastemaker.learning import metrics
from tastemaker.scores import classes

RESAMPLES = 1000
FEWEST_SHARED = 5  # images two must have in common to be compared


@dataclass(frozen=True)
class MeanEstimate:
    """A mean over `n` images with its 95 % bootstrap interval; all None while n is too small."""

    value: float | None
    low: float | None
    high: float | None
    n: int


NO_MEAN = MeanEstimate(None, None, None, 0)


@dataclass(frozen=True)
class AnnotatorStats:
    """One person's scoring. `bias` is own score − mean of the others' on the same image, `error`
    its size without the sign; of classes, the share of the others that said something else."""

    person_id: int
    name: str
    scored: int
    mean: float | None
    newest: datetime
    bias: MeanEstimate
    error: MeanEstimate


@dataclass(frozen=True)
class AnnotatorPair:
    """Two people on the images both scored. `rank` is Spearman's correlation, None where one of
    them gave a single score throughout."""

    first: str
    second: str
    difference: MeanEstimate
    error: MeanEstimate
    rank: float | None


@dataclass(frozen=True)
class Agreement:
    habits: list[AnnotatorStats]
    pairs: list[AnnotatorPair]
    shared: int  # images that two people or more have scored


def agreement(session: Session, project: Project) -> Agreement:
    """How the standing scores of a project's people compare; of classes, how often they differ.
    Stand-ins, which are no people, are left out."""
    named = project.labelling != "scores"
    standing, newest, names = _standing(session, project)
    by_image: dict[int, dict[int, int]] = {}
    for (person, image), value in standing.items():
        by_image.setdefault(image, {})[person] = value
    shared = {image: by for image, by in by_image.items() if len(by) > 1}
    habits = []
    for person, name in names.items():
        own = [value for (scorer, _), value in standing.items() if scorer == person]
        gaps = [_gap(by, person, named) for by in shared.values() if person in by]
        habits.append(
            AnnotatorStats(
                person, name, len(own), None if named else float(np.mean(own)), newest[person],
                bias=NO_MEAN if named else mean_of(gaps), error=mean_of(np.abs(gaps)),
            )
        )  # fmt: skip
    pairs = []
    for first, second in combinations(names, 2):
        both = np.array(
            [[by[first], by[second]] for by in shared.values() if first in by and second in by]
        )
        if len(both):
            gap = both[:, 0] != both[:, 1] if named else both[:, 0] - both[:, 1]
            pairs.append(
                AnnotatorPair(
                    names[first], names[second],
                    MeanEstimate(None, None, None, len(both)) if named else mean_of(gap),
                    mean_of(np.abs(gap)),
                    None if named else spearman(both[:, 0], both[:, 1]),
                )
            )  # fmt: skip
    habits.sort(key=lambda habit: -habit.scored)
    return Agreement(habits, pairs, len(shared))


def _gap(by: dict[int, int], person: int, named: bool) -> float:
    """Own score − mean of the others', or the share of the others that named another class."""
    others = [value for other, value in by.items() if other != person]
    if named:
        return float(np.mean([value != by[person] for value in others]))
    return by[person] - float(np.mean(others))


def mean_of(values: ArrayLike) -> MeanEstimate:
    """The mean with its percentile bootstrap interval, the same every time."""
    array = np.asarray(values, np.float64)
    n = len(array)
    if n < FEWEST_SHARED:
        return MeanEstimate(None, None, None, n)
    drawn = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    low, high = np.quantile(array[drawn].mean(1), [0.025, 0.975])
    return MeanEstimate(float(array.mean()), float(low), float(high), n)


def spearman(a: NDArray[np.int64], b: NDArray[np.int64]) -> float | None:
    """Rank correlation, −1 to 1, ties at their mid-rank; None where it cannot be told."""
    return metrics.spearman(a, b) if len(a) >= FEWEST_SHARED else None


def _standing(
    session: Session, project: Project
) -> tuple[dict[tuple[int, int], int], dict[int, datetime], dict[int, str]]:
    """(person, image) → the score that stands; person → when they scored last; person → name."""
    rows = session.execute(
        scores.standing_events()
        .with_only_columns(
            col(ScoreEvent.annotator_id), col(ScoreEvent.image_id), col(ScoreEvent.value),
            col(ScoreEvent.at), col(Annotator.name),
        )
        .join(Annotator, col(Annotator.id) == ScoreEvent.annotator_id)
        .where(
            ScoreEvent.project_id == project.id, ScoreEvent.kind == "set",
            ~col(Annotator.proxy),
        )
        .order_by(col(ScoreEvent.id))
    ).all()  # fmt: skip
    standing: dict[tuple[int, int], int] = {}
    newest: dict[int, datetime] = {}
    names: dict[int, str] = {}
    known = classes.of_project(session, project)
    for person, image, said, at, name in rows:
        value = said if known is None else known.current(said)  # after merging and deleting
        if value is None:
            continue
        standing[person, image] = value
        newest[person], names[person] = at, name
    return standing, newest, names
