"""Slices of a project with classes: what a version takes their images for, and how often it is
right on those that are labelled, each judged by a head that had not seen it (see `slices`)."""

import numpy as np
from numpy.typing import NDArray
from sqlmodel import Session, select

from tastemaker.database.tables import ClassPrediction, Project, Slice, Version
from tastemaker.evaluation import slices
from tastemaker.evaluation.slices import SlicePredictions
from tastemaker.learning.class_metrics import ClassSlice, shares_of
from tastemaker.scores import classes
from tastemaker.scores.classes import ClassList


def measured(
    session: Session, project: Project, version: Version, frozen: bool = False
) -> list[ClassSlice]:
    """Every slice of the project, by name, with the labels as they are now, or (`frozen`) as the
    version saw them."""
    rows = slices.listing(session, project)
    if not rows:
        return []
    known = classes.of(session, project.id)
    seen = slices.slice_predictions(session, project, version, frozen)
    predicted = _predicted(session, version, seen)
    return [
        measure(session, row, inside, seen, predicted, known)
        for row, inside in slices.each(session, project, rows, seen)
    ]


def _predicted(session: Session, version: Version, seen: SlicePredictions) -> NDArray[np.float64]:
    """(N,) what the version takes the images of `seen` for, as a label holds it; NaN where it says
    nothing."""
    ids, values = slices.read_columns(
        session,
        select(ClassPrediction).where(ClassPrediction.version_id == version.id),
        ClassPrediction.image_id,
        ClassPrediction.predicted,
    )
    said = dict(zip(ids.astype(np.int64).tolist(), values.tolist(), strict=True))
    return np.array([said.get(i, np.nan) for i in seen.ids.tolist()], np.float64)


def measure(
    session: Session,
    row: Slice,
    inside: NDArray[np.bool_],
    seen: SlicePredictions,
    predicted: NDArray[np.float64],
    known: ClassList,
) -> ClassSlice:
    """What a version makes of one slice; `inside` (N,) says which images of `seen` belong to it,
    `predicted` (N,) what it takes each for."""
    told = inside & np.isfinite(predicted)
    images = truths(known, predicted[told])
    judged = told & np.isfinite(seen.label)
    alive = np.array([known.current(int(v)) is not None for v in seen.label[judged]], bool)
    judged[judged] = alive
    accuracy, rows = shares_of(
        [(one.number, one.name) for one in known.alive],
        truths(known, seen.label[judged]),
        truths(known, predicted[judged]),
        seen.group[judged],
        images.sum(axis=0),
    )
    return ClassSlice(
        **slices.size(session, row, inside, seen),
        labelled=int(judged.sum()), accuracy=accuracy, classes=rows,
    )  # fmt: skip


def truths(known: ClassList, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n, K) as `ClassList.truth`, of many values (n,) that are often the same."""
    distinct, at = np.unique(values, return_inverse=True)
    found: NDArray[np.bool_] = known.truth(distinct.tolist())[at]
    return found
