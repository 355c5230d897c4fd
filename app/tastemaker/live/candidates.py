"""From a fit of the live model to what the queues and the review show: lists of picks.

A pick is a small dict for the live file: `image_id`, `why` (see `reasons`), and what the reason
speaks of. Models choose among images off the hold-out side only; random control is drawn from all.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tastemaker.database.tables import Project
from tastemaker.learning.contradictions import contradictions
from tastemaker.learning.label_issues import label_issues
from tastemaker.learning.ridge import Ridge
from tastemaker.learning.selection import (
    Side,
    cold_start,
    disagreements,
    diverse,
    mixed,
    near_threshold,
    suspected,
)
from tastemaker.live.project_state import EmbeddingMatrix

BATCH = 64  # picks decided at once; the next refit replaces those not shown
LISTED = 200  # of mistakes, suspects, doubtful labels
PAIRS = 100
MOST_SUSPECTED = 100_000  # images compared with every label in one search, drawn at random
TWIN = 0.5  # closeness from which a labelled neighbour is worth naming (1: the same picture)

Pick = dict[str, Any]


@dataclass(frozen=True)
class FittedModel:
    """The live model of a project at one moment. `rows` is the live array; `values` (N,) the labels
    in [0, 1], NaN without one; `train` the labelled rows off the hold-out side; `free` (N,) what
    can be shown: in the pool, and nobody has spoken of it. `ridge` is None while the labels teach
    nothing."""

    project: Project
    library: EmbeddingMatrix
    ridge: Ridge | None
    rows: np.ndarray
    values: np.ndarray
    train: np.ndarray
    free: np.ndarray
    seed: int

    @property
    def candidates(self) -> np.ndarray:
        return self.free & ~self.library.holdout

    def pick(self, row: int, why: str, **more: Any) -> Pick:
        found: Pick = {"image_id": int(self.library.ids[row]), "why": why}
        if self.ridge is not None:
            found["score"] = round(float(self.rows["score"][row]), 5)
            found["uncertainty"] = round(float(self.rows["uncertainty"][row]), 5)
        return found | more

    def label(self, row: int) -> float:
        """In points of 0–10; a mean of several people may have decimals."""
        return round(float(10 * self.values[row]), 4)


def fast_lists(fitted: FittedModel) -> dict[str, Any]:
    """The lists that follow every score."""
    return {
        "queue": _mixed(fitted),
        "near": _near_threshold(fitted),
        "mistakes": {
            "false-positives": _mistakes(fitted, "fp"),
            "false-negatives": _mistakes(fitted, "fn"),
        },
    }


def slow_lists(fitted: FittedModel) -> dict[str, Any]:
    """The lists that compare every image, or every label, with every label."""
    return {
        "start": _start(fitted),
        "suspected": {
            "false-positives": _suspected(fitted, "fp"),
            "false-negatives": _suspected(fitted, "fn"),
        },
        "doubtful": _doubtful(fitted),
        "contradictions": _contradictions(fitted),
    }


# --- images without a score ----------------------------------------------------------------------


def _mixed(fitted: FittedModel) -> list[Pick]:
    rows = fitted.rows
    picks = mixed(
        fitted.library.projection.features, fitted.candidates, fitted.free, BATCH,
        labelled=fitted.train,
        scores=rows["score"] if fitted.ridge else None,
        sd=rows["uncertainty"] if fitted.ridge else None,
        penalty=fitted.ridge.penalty if fitted.ridge else None,
        threshold=fitted.project.threshold,
        seed=fitted.seed,
    )  # fmt: skip
    return [fitted.pick(pick.row, pick.reason) for pick in picks]


def _near_threshold(fitted: FittedModel) -> list[Pick]:
    if fitted.ridge is None:
        return []
    rows = near_threshold(
        fitted.rows["score"], fitted.rows["uncertainty"], fitted.candidates, BATCH,
        fitted.project.threshold, np.random.default_rng(fitted.seed), floor=0.0,
    )  # fmt: skip
    return [fitted.pick(row, "threshold") for row in rows]


def _start(fitted: FittedModel) -> list[Pick]:
    """What is typical of every part of the library; once there are labels, what is unlike them."""
    random, features = np.random.default_rng(fitted.seed), fitted.library.projection.features
    if len(fitted.train) == 0:
        rows = cold_start(features, fitted.candidates, BATCH, random)
        return [fitted.pick(row, "cold_start") for row in rows]
    rows = diverse(features, fitted.train, fitted.candidates, BATCH, random)
    return [fitted.pick(row, "diverse") for row in rows]


def _suspected(fitted: FittedModel, side: Side) -> list[Pick]:
    """Unlabelled images that are probably on the other side of the threshold."""
    if fitted.ridge is None:
        return []
    candidates = np.flatnonzero(fitted.candidates)
    if len(candidates) > MOST_SUSPECTED:
        random = np.random.default_rng(fitted.seed)
        candidates = random.choice(candidates, MOST_SUSPECTED, replace=False)
    mask = np.zeros(len(fitted.rows), bool)
    mask[candidates] = True
    found = suspected(
        side, fitted.library.projection.features, fitted.rows["score"],
        fitted.rows["uncertainty"], mask,
        labelled=fitted.train, labels=fitted.values[fitted.train],
        threshold=fitted.project.threshold, limit=LISTED,
    )  # fmt: skip
    picks = []
    for row, probability, neighbour, closeness in zip(
        found.rows, found.probability, found.neighbour, found.closeness, strict=True
    ):
        pick = fitted.pick(row, f"suspected_{side}", probability=float(probability))
        if closeness >= TWIN:
            pick["neighbour"] = int(fitted.library.ids[neighbour])
            pick["neighbour_label"] = fitted.label(neighbour)
        picks.append(pick)
    return picks


# --- labels --------------------------------------------------------------------------------------


def _mistakes(fitted: FittedModel, side: Side) -> list[Pick]:
    """Labels on the other side of the threshold than the fit without them says, worst first."""
    if fitted.ridge is None:
        return []
    wrong = disagreements(
        side, fitted.ridge.out_of_group, fitted.values[fitted.train],
        fitted.rows["uncertainty"][fitted.train], threshold=fitted.project.threshold,
    )  # fmt: skip
    rows = fitted.train[wrong[:LISTED]]
    return [fitted.pick(row, "mistake", label=fitted.label(row)) for row in rows]


def _doubtful(fitted: FittedModel) -> list[Pick]:
    if fitted.ridge is None:
        return []
    train, library = fitted.train, fitted.library
    found = label_issues(
        library.projection.features[train], fitted.values[train], library.groups[train],
        fitted.ridge,
    )  # fmt: skip
    return [
        fitted.pick(
            train[at], "doubtful",
            label=fitted.label(train[at]),
            score=round(float(found.expected[at]), 5),
            quality=float(found.quality[at]),
        )
        for at in found.worst(LISTED)
    ]  # fmt: skip


def _contradictions(fitted: FittedModel) -> list[Pick]:
    train, library = fitted.train, fitted.library
    pairs = contradictions(
        library.projection.features[train], fitted.values[train], library.groups[train],
        limit=PAIRS,
    )  # fmt: skip
    return [
        fitted.pick(
            train[pair.first], "contradiction",
            label=fitted.label(train[pair.first]),
            twin=int(library.ids[train[pair.second]]),
            twin_label=fitted.label(train[pair.second]),
            gap=round(pair.gap, 5),
        )
        for pair in pairs
    ]  # fmt: skip
