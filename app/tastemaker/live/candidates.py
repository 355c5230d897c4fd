"""From a fit of the live model to its lists of picks, which the queues and Review show.

Models choose among images off the hold-out side only; the random sample is drawn from all.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tastemaker.database.tables import Project
from tastemaker.learning.label_issues import contradictions, label_issues
from tastemaker.learning.ridge import Ridge
from tastemaker.learning.selection import (
    Mix,
    Side,
    cold_start,
    disagreements,
    diverse,
    mixed,
    near_threshold,
    suspected,
)
from tastemaker.live.embedding_matrix import EmbeddingMatrix
from tastemaker.live.live_model import (
    LISTED,
    PAIRS,
    ErrorLists,
    LiveRows,
    Pick,
    PickLists,
    Picks,
    Why,
)

BATCH = 64  # picks decided at once; the next refit replaces those not shown
MOST_SUSPECTED = 100_000  # images compared with every label in one search, drawn at random
HELD_OUT = 60  # labels that measure, from which on they come as the random sample brings them
HELD_OUT_SHARE = 1 / 7  # of the labels, until then
TWIN = 0.5  # closeness from which a labelled neighbour is worth naming (1: the same picture)


@dataclass(frozen=True)
class FittedModel:
    """The live model of a project at one moment. `rows` is the live array; `values` (N,) the labels
    in [0, 1], or the numbers of classes, NaN without one; `train` the labelled rows off the
    hold-out side; `free` (N,) what can be shown: in the pool, without any event but a sweep, and
    `swept` (N,) what was swept: the random sample asks for it all the same. `ridge` is None while
    the labels teach nothing and there is nothing to start from, and of classes."""

    project: Project
    matrix: EmbeddingMatrix
    ridge: Ridge | None
    rows: LiveRows
    values: NDArray[np.float64]
    train: NDArray[np.intp]
    free: NDArray[np.bool_]
    swept: NDArray[np.bool_]
    seed: int
    from_prior: bool = False

    @property
    def control(self) -> NDArray[np.bool_]:
        """(N,) what the random sample is drawn from: everything; the hold-out side alone while
        that is behind its share of the labels. Which side an image is on says nothing about it, so
        either way it is a random sample."""
        held = int((~np.isnan(self.values) & self.matrix.holdout).sum())
        wanted = min(HELD_OUT, HELD_OUT_SHARE * (len(self.train) + held))
        measuring: NDArray[np.bool_] = self.free & self.matrix.holdout
        return measuring if held < wanted and measuring.any() else self.free

    @property
    def candidates(self) -> NDArray[np.bool_]:
        candidates: NDArray[np.bool_] = self.free & ~self.swept & ~self.matrix.holdout
        return candidates

    def image_id(self, row: int) -> int:
        return int(self.matrix.ids[row])

    def label(self, row: int) -> float:
        """In points of 0–10, where a mean of several people may have decimals; or a class."""
        points = 10 if self.project.labelling == "scores" else 1
        return round(float(points * self.values[row]), 4)

    def pick(self, row: int, why: Why) -> Pick:
        score, uncertainty = self.rows["score"][row], self.rows["uncertainty"][row]
        if np.isnan(score):
            return Pick(self.image_id(row), why)
        return Pick(
            self.image_id(row), why, round(float(score), 5), round(float(uncertainty), 5)
        )  # fmt: skip


def fast_lists(lists: PickLists, fitted: FittedModel) -> PickLists:
    """`lists` with those made anew that follow every score."""
    return replace(
        lists,
        mixed=_mixed(fitted),
        near_threshold=_near_threshold(fitted),
        mistakes=ErrorLists(_mistakes(fitted, "fp"), _mistakes(fitted, "fn")),
    )


def slow_lists(lists: PickLists, fitted: FittedModel) -> PickLists:
    """`lists` with those made anew that compare every image, or every label, with every label."""
    return replace(
        lists,
        start=start(fitted),
        suspected=ErrorLists(_suspected(fitted, "fp"), _suspected(fitted, "fn")),
        label_issues=_label_issues(fitted),
        contradictions=contradicting(fitted),
    )


# --- images without a score ----------------------------------------------------------------------


def _mixed(fitted: FittedModel) -> Picks:
    rows = fitted.rows
    batch = mixed(
        fitted.matrix.projection.features, fitted.candidates, fitted.control, BATCH,
        labelled=fitted.train,
        scores=rows["score"] if fitted.ridge else None,
        sd=rows["uncertainty"] if fitted.ridge else None,
        penalty=fitted.ridge.penalty if fitted.ridge else None,
        threshold=fitted.project.threshold,
        mix=Mix.after(len(fitted.train), fitted.from_prior),
        seed=fitted.seed,
    )  # fmt: skip
    return tuple(fitted.pick(chosen.row, chosen.reason) for chosen in batch)


def _near_threshold(fitted: FittedModel) -> Picks:
    if fitted.ridge is None:
        return ()
    rows = near_threshold(
        fitted.rows["score"], fitted.rows["uncertainty"], fitted.candidates, BATCH,
        fitted.project.threshold, np.random.default_rng(fitted.seed), floor=0.0,
    )  # fmt: skip
    return tuple(fitted.pick(row, "threshold") for row in rows)


def start(fitted: FittedModel) -> Picks:
    """What is typical of every part of the library; once there are labels, what is unlike them."""
    random, features = np.random.default_rng(fitted.seed), fitted.matrix.projection.features
    if len(fitted.train) == 0:
        rows = cold_start(features, fitted.candidates, BATCH, random)
        return tuple(fitted.pick(row, "cold_start") for row in rows)
    rows = diverse(features, fitted.train, fitted.candidates, BATCH, random)
    return tuple(fitted.pick(row, "diverse") for row in rows)


def _suspected(fitted: FittedModel, side: Side) -> Picks:
    """Unlabelled images that are probably on the other side of the threshold."""
    if fitted.ridge is None:
        return ()
    candidates = np.flatnonzero(fitted.candidates)
    if len(candidates) > MOST_SUSPECTED:
        random = np.random.default_rng(fitted.seed)
        candidates = random.choice(candidates, MOST_SUSPECTED, replace=False)
    mask = np.zeros(len(fitted.rows), bool)
    mask[candidates] = True
    suspects = suspected(
        side, fitted.matrix.projection.features, fitted.rows["score"],
        fitted.rows["uncertainty"], mask,
        labelled=fitted.train, labels=fitted.values[fitted.train],
        threshold=fitted.project.threshold, limit=LISTED,
    )  # fmt: skip
    why: Why = "suspected_fp" if side == "fp" else "suspected_fn"
    picks = []
    for row, probability, neighbour, closeness in zip(
        suspects.rows, suspects.probability, suspects.neighbour, suspects.closeness, strict=True
    ):
        pick = replace(fitted.pick(row, why), probability=float(probability))
        if closeness >= TWIN:
            twin, twin_label = fitted.image_id(neighbour), fitted.label(neighbour)
            pick = replace(pick, twin=twin, twin_label=twin_label)
        picks.append(pick)
    return tuple(picks)


# --- labels --------------------------------------------------------------------------------------


def _mistakes(fitted: FittedModel, side: Side) -> Picks:
    """Labels on the other side of the threshold than the fit without them predicts, worst first."""
    if fitted.ridge is None:
        return ()
    wrong = disagreements(
        side, fitted.ridge.out_of_group, fitted.values[fitted.train],
        fitted.rows["uncertainty"][fitted.train], threshold=fitted.project.threshold,
    )  # fmt: skip
    rows = fitted.train[wrong[:LISTED]]
    return tuple(replace(fitted.pick(row, "mistake"), label=fitted.label(row)) for row in rows)


def _label_issues(fitted: FittedModel) -> Picks:
    if fitted.ridge is None:
        return ()
    train, matrix = fitted.train, fitted.matrix
    issues = label_issues(
        matrix.projection.features[train], fitted.values[train], matrix.groups[train],
        fitted.ridge,
    )  # fmt: skip
    return tuple(
        replace(
            fitted.pick(train[at], "doubtful"),
            label=fitted.label(train[at]),
            score=round(float(issues.expected[at]), 5),
            quality=float(issues.quality[at]),
        )
        for at in issues.worst(LISTED)
    )


def contradicting(fitted: FittedModel) -> Picks:
    train, matrix = fitted.train, fitted.matrix
    pairs = contradictions(
        matrix.projection.features[train], fitted.values[train], matrix.groups[train],
        limit=PAIRS,
    )  # fmt: skip
    return tuple(
        replace(
            fitted.pick(train[pair.first], "contradiction"),
            label=fitted.label(train[pair.first]),
            twin=fitted.image_id(train[pair.second]),
            twin_label=fitted.label(train[pair.second]),
            gap=round(pair.gap, 5),
        )
        for pair in pairs
    )
