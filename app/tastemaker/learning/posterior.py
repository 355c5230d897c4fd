"""How unsure a linear head is of every image of a library.

A library is turned onto its leading principal axes once; there each posterior is cheap.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from tastemaker.learning.distances import ROWS_AT_ONCE
from tastemaker.learning.ridge import Array, Ridge, half_scale
from tastemaker.learning.subspace import largest_axes, principal_axes

EXACT = 1280  # dimensions whose eigenvectors are found in a fraction of a second
WIDE = 768  # axes that stand for more dimensions than that
WIDE_SAMPLE = 8_000  # rows that they are found on


@dataclass(frozen=True)
class Projection:
    """A library seen from its leading principal axes, computed once per embedding matrix.

    `features` (N, k) float32 are the half-scaled rows on these axes; `rest` (N,) is the squared
    length they leave out, and `rest_axes` the number of dimensions it is spread over. Fewer rows
    than dimensions have fewer axes: a small library is projected in milliseconds.

    `axes` (D, 768) of features divided by `scale` (D,) are more of them, where a library of wide
    vectors is so large that a ridge in all of its dimensions would take seconds.
    """

    features: NDArray[np.float32]
    rest: NDArray[np.float32]
    rest_axes: int
    scale: NDArray[np.float32]
    axes: NDArray[np.float32] | None = None

    def shortcut(self, labels: int) -> dict[str, Array]:
        """What lets `fit_ridge` fit so many labels in time: nothing while they are few."""
        if self.axes is None or labels <= EXACT:
            return {}
        return {"scale": self.scale, "span": self.axes}


def project(x: Array, k: int = 256, *, sample: int = 20_000, seed: int = 0) -> Projection:
    """The top-k principal axes of x (N, D), found on at most `sample` random rows."""
    n, features = x.shape
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(n)[:sample])
    drawn = np.asarray(x[chosen], np.float32)
    mean, scale = drawn.mean(0), half_scale(drawn)
    drawn = (drawn - mean) / scale
    more = None
    if min(drawn.shape) > EXACT:
        more = largest_axes(drawn[rng.permutation(len(drawn))[:WIDE_SAMPLE]], WIDE, rng)
        axes = np.ascontiguousarray(more[:, k - 1 :: -1])  # ascending, as those below
    else:
        _, strengths, to_weights = principal_axes(drawn)
        k = min(k, len(strengths))
        axes = to_weights(np.eye(len(strengths), dtype=np.float32)[:, len(strengths) - k :])

    turned, rest = np.empty((n, k), np.float32), np.empty(n, np.float32)
    for start in range(0, n, ROWS_AT_ONCE):
        rows = (np.asarray(x[start : start + ROWS_AT_ONCE], np.float32) - mean) / scale
        part = slice(start, start + len(rows))
        np.matmul(rows, axes, out=turned[part])
        rest[part] = _squares(rows) - _squares(turned[part])
    return Projection(turned, np.maximum(rest, 0), features - k, scale, more)


def posterior_sd(
    projection: Projection, labelled: Array, ridge: Ridge, scores: Array
) -> NDArray[np.float32]:
    """How unsure `ridge` is of every row of the library: (N,), in score units (0–1), all > 0.

    `labelled` (n,) are the library rows it was fitted on, `scores` (N,) what it predicts. Ridge is
    the mean of a Gaussian posterior of variance σ²(1 + h(x)), h(x) = 1/n + xᵀ(XᵀX + λ)⁻¹x for
    centred x (Rasmussen & Williams 2006, section 2.1). Here h is exact on the k projected axes;
    on the axes left out, XᵀX is taken as spread evenly, without which doubtful strangers would
    look familiar. σ² grows with f(1 − f), the largest variance of a label in [0, 1] of mean f: near
    the ends errors are small. It is scaled so that sd² is noise² on average over the unlabelled
    rows, as it is over the out-of-group predictions: the labels' own noise is included. Without a
    label nothing is nearer than anything else.
    """
    labelled, n = np.asarray(labelled, np.intp), len(labelled)
    if n == 0:
        inside = np.clip(scores, 0.1, 0.9).astype(np.float32)
        alike = np.sqrt(inside * (1 - inside) / np.mean(inside * (1 - inside)))
        return np.asarray(alike * np.float32(max(ridge.noise, 1e-3)), np.float32)
    z = projection.features[labelled].astype(np.float64)
    centre = z.mean(0)
    precision = (z - centre).T @ (z - centre)
    precision[np.diag_indices_from(precision)] += ridge.penalty
    # ‖L⁻¹x‖² with precision = LLᵀ: the quadratic form for the price of one matrix product.
    whiten = solve_triangular(cholesky(precision, lower=True), np.eye(len(precision)), lower=True)
    whiten = np.ascontiguousarray(whiten.T, np.float32)
    shift = centre.astype(np.float32) @ whiten

    spread = projection.rest[labelled].sum() / max(projection.rest_axes, 1)
    variance = 1 + 1 / n + projection.rest / np.float32(ridge.penalty + spread)
    for start in range(0, len(variance), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        variance[part] += _squares(projection.features[part] @ whiten - shift)

    inside = np.clip(scores, 0.1, 0.9).astype(np.float32)
    variance *= inside * (1 - inside)
    unlabelled = np.ones(len(variance), bool)
    unlabelled[labelled] = False
    usual = np.mean(variance[unlabelled] if unlabelled.any() else variance, dtype=np.float64)
    return np.sqrt(variance / usual).astype(np.float32) * np.float32(max(ridge.noise, 1e-3))


def _squares(rows: Array) -> Array:
    """Squared length of every row."""
    return np.asarray(np.einsum("ij,ij->i", rows, rows))
