"""Doubtful labels: which scores are probably slips, going by all the others.

After the regression method of cleanlab (Zhou et al. 2023, *Detecting errors in numerical data*):
a label's residual against a prediction that never saw it, in units of how uncertain that prediction
is. With r the residual and u its uncertainty, a = |r|/u, and quality = exp(−a / median a): about
0.37 for the usual label, towards 0 for one that nothing explains.

Three things are different, each because it finds more injected errors (bench/doubtful.py):

- u needs no bootstrap. For a ridge it has a closed form, σ √(1 + h/(1 − h)) with the leverage h;
- the slips themselves distort the fit that is to find them, so every label is first drawn in to
  within one robust standard deviation of its prediction (Huber's pseudo-values), twice;
- where the images nearest to one are all scored higher than predicted, so should it be. A linear
  head cannot see that; the median residual of the nearest images can. It counts by as much as
  makes the residuals of all labels smallest, which is not at all where it only adds noise.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.learning.ridge import Ridge, fit_ridge

Array = NDArray[Any]

FEWEST = 20  # labels, below which a residual says nothing
# Quality of a residual of two standard deviations. With a tenth of slips among 1,000 labels this
# lists about 45 to 65 of the 100, and as many honest ones: the worst stand first.
DOUBTFUL = float(np.exp(-3.0))
NEIGHBOURS = 5
SHARES = np.linspace(0, 1, 11)  # of the neighbours' residual that may be believed
ROUNDS = 2
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class LabelIssues:
    """Per label (n,), in [0, 1]: what the others make `expected`, and the `quality` of what was
    said instead."""

    expected: NDArray[np.float64]
    quality: NDArray[np.float64]

    def worst(self, limit: int) -> NDArray[np.intp]:
        """Positions of the doubtful labels, the most doubtful first."""
        order = np.argsort(self.quality, kind="stable")[:limit]
        return order[self.quality[order] <= DOUBTFUL]


def label_issues(features: Array, labels: Array, groups: Array, ridge: Ridge) -> LabelIssues:
    """How far each label is from what the others say. `features` (n, k) are the half-scaled rows on
    their principal axes (`ridge.Projection`), `labels` (n,) in [0, 1], `groups` (n,) equal for
    images that are left out together; `ridge` was fitted on the same labels. With fewer than 20
    labels none is doubtful. 0.3 s for 3,000 labels."""
    x = np.ascontiguousarray(features, np.float32)
    y = np.asarray(labels, np.float64)
    if len(y) < FEWEST:
        return LabelIssues(ridge.out_of_group.astype(np.float64), np.ones(len(y)))
    expected = _unmoved_by_slips(x, y, groups, ridge)
    residual = y - expected
    nearby = np.median(residual[_nearest_of_others(x, groups)], axis=1)
    believed = SHARES[np.argmin(np.abs(residual - SHARES[:, None] * nearby).mean(1))]
    expected = np.clip(expected + believed * nearby, 0, 1)

    leverage = _leverage(x, ridge.penalty)
    deviation = np.abs(y - expected) / np.sqrt(1 + leverage / (1 - leverage))
    usual = max(float(np.median(deviation)), 1e-3)
    return LabelIssues(expected, np.exp(-deviation / usual))


def _unmoved_by_slips(x: Array, y: Array, groups: Array, ridge: Ridge) -> Array:
    """Predictions (n,) without the own group, by fits to labels that are drawn in."""
    left_out = ridge.out_of_group.astype(np.float64)
    units = np.ones(x.shape[1], np.float32)
    for _ in range(ROUNDS):
        residual = y - left_out
        reach = max(1.4826 * float(np.median(np.abs(residual))), 0.01)
        drawn_in = np.clip(left_out + np.clip(residual, -reach, reach), 0, 1)
        if np.ptp(drawn_in) == 0:
            break
        fit = fit_ridge(
            x, drawn_in, groups, link="identity", penalties=(ridge.penalty,), scale=units
        )
        left_out = fit.out_of_group.astype(np.float64)
    return left_out


def _nearest_of_others(x: Array, groups: Array) -> NDArray[np.intp]:
    """(n, m) positions of the nearest rows of other groups; where a row has fewer, its own stands
    for the missing ones."""
    n = len(x)
    count = min(NEIGHBOURS, n - 1)
    groups = np.asarray(groups)
    squares = np.einsum("ij,ij->i", x, x)
    nearest = np.empty((n, count), np.intp)
    for start in range(0, n, ROWS_AT_ONCE):
        part = np.arange(start, min(start + ROWS_AT_ONCE, n))
        apart = squares - 2 * (x[part] @ x.T)
        apart[groups[part, None] == groups] = np.inf
        found = np.argpartition(apart, count - 1, axis=1)[:, :count]
        missing = np.isinf(np.take_along_axis(apart, found, 1))
        nearest[part] = np.where(missing, part[:, None], found)
    return nearest


def _leverage(x: Array, penalty: float) -> Array:
    """h (n,) of a ridge with a free intercept: how much each label decides its own prediction."""
    centred = (x - x.mean(0)).astype(np.float64)
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += penalty
    h = 1 / len(x) + np.einsum("ij,ij->i", centred, np.linalg.solve(gram, centred.T).T)
    return np.clip(h, 0, 0.99)
