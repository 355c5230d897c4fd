"""The live model of a project with classes: what is fitted, and what it predicts of every image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import NotTrainable
from tastemaker.learning.class_metrics import (
    ClassRecord,
    Floats,
    Truths,
    always_commonest,
    margins,
    said,
)
from tastemaker.learning.class_ridge import ClassRidge, fit_class_ridge
from tastemaker.learning.ratios import ratios
from tastemaker.live.embedding_matrix import EmbeddingMatrix
from tastemaker.live.live_model import FEWEST_DRAWN, LiveAccuracy, LiveRows, without_predictions
from tastemaker.scores.classes import ClassList
from tastemaker.versions import class_rows

LEADING = 2  # classes that a reason names
RESAMPLES = 200  # of the interval that stands beside every refit


@dataclass(frozen=True)
class ClassFit:
    """What the labels of a project teach about its K classes. `ridge` tells them apart; the rest is
    told by fits without the image's own group. `truth` and `out_of_group` (n, K) are of the labels
    it was fitted on. Of all N images `highest` (N,) is the probability of the likeliest class or
    tag, `leading` (N, 2) the two likeliest and `shares` (N, 2) their probabilities; of tags the
    least certain one comes first and the likeliest second."""

    ridge: ClassRidge
    record: ClassRecord
    truth: Truths
    out_of_group: NDArray[np.float32]
    highest: NDArray[np.float32]
    leading: NDArray[np.intp]
    shares: NDArray[np.float32]

    @property
    def several(self) -> bool:
        return self.record.labelling == "tags"

    def probabilities(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """(K,) of one picture, by its vector (D,)."""
        (own,) = next(self.ridge.predict(vector[None]))[1]
        return np.asarray(own, np.float32)


def fit(
    matrix: EmbeddingMatrix,
    known: ClassList,
    values: NDArray[np.float64],
    train: NDArray[np.intp],
) -> tuple[ClassFit | None, LiveRows]:
    """The fit of the labels values (N,) at the rows `train` (None while they teach nothing) and the
    rows of the live array."""
    rows = without_predictions(matrix.ids, ~np.isnan(values))
    truth = known.truth(values[train].tolist())
    try:
        ridge = fit_class_ridge(
            matrix.x[train], truth, matrix.groups[train], several=known.several,
            label_weights=np.array([row.weight for row in known.alive]),
            **matrix.projection.shortcut(len(train)),
        )  # fmt: skip
    except NotTrainable:
        return None, rows
    kept = [row for row, is_kept in zip(known.alive, ridge.kept, strict=True) if is_kept]
    record = ClassRecord(
        labelling=known.labelling,
        numbers=tuple(row.number for row in kept),
        names=tuple(row.name for row in kept),
    )
    fitted = ClassFit(
        ridge,
        record,
        truth[:, ridge.kept],
        ridge.out_of_group,
        np.empty(len(rows), np.float32),
        np.empty((len(rows), LEADING), np.intp),
        np.empty((len(rows), LEADING), np.float32),
    )
    for start, p in ridge.predict(matrix.x):
        _tell(fitted, rows, np.arange(start, start + len(p)), p)
    _tell(fitted, rows, train, ridge.out_of_group)
    return fitted, rows


def accuracy(
    fitted: ClassFit, groups: NDArray[np.int64], drawn: NDArray[np.bool_]
) -> LiveAccuracy | None:
    """How often it is right on the labels that were drawn at random, drawn (n,): those that a queue
    picked are harder. `groups` (n,) are those of all. None while they are fewer than
    `FEWEST_DRAWN`."""
    if drawn.sum() < FEWEST_DRAWN:
        return None
    truth, several = fitted.truth[drawn], fitted.several
    right = (truth == said(fitted.out_of_group[drawn], several=several)).all(axis=1)[:, None]
    (share,) = ratios(
        right.astype(np.float64), np.ones(right.shape), np.array([len(right)]), groups[drawn],
        resamples=RESAMPLES,
    )  # fmt: skip
    return LiveAccuracy(share, always_commonest(truth, several=several))


def _tell(fitted: ClassFit, rows: LiveRows, at: NDArray[np.intp], p: Floats) -> None:
    """Fill in what the probabilities p (m, K) say of the images at these rows (m,)."""
    several = fitted.several
    rows["says"][at] = class_rows.encoded(p, fitted.record)
    rows["score"][at] = class_rows.certainty(p, several)
    rows["uncertainty"][at] = 1 - margins(p, several=several)
    fitted.highest[at] = p.max(axis=1)
    if several:
        leading = np.stack([np.abs(p - 0.5).argmin(axis=1), p.argmax(axis=1)], axis=1)
    else:
        leading = np.argsort(-p, axis=1, kind="stable")[:, :LEADING]
    fitted.leading[at] = leading
    fitted.shares[at] = np.take_along_axis(p, leading, axis=1)
