"""The directions in which labelled images differ: there a network learns, and nowhere else.

A hundred images of 4,128 features lie in a hundred dimensions. A weight beyond them never meets a
label, yet takes the time of one that does, and stays the random number that it began as: noise for
every image to come. So the network is trained on coordinates in those dimensions, which fold back
into its first layer without loss. Of many labels they are nearly all dimensions there are: then the
features stay as they are or, where these are so many that they take long, the dimensions that hold
most are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, qr

from tastemaker.learning.city96 import Array, Tensors

MOST = 512  # dimensions, however many labels and features there are
NARROW = 1536  # features that more labels than that have as they are
SPARE, ROUNDS = 32, 2  # of the search for the largest: dimensions beyond them, and repetitions


@dataclass(frozen=True)
class Subspace:
    """So many `axes` (D, r), orthonormal, in the space of D features, which cross at `centre` (D,);
    None are all of the features, as they are. `unit` divides the coordinates, so that they vary by
    about 1, as the features do."""

    axes: Array | None = None
    centre: Array | None = None
    unit: float = 1.0

    def coordinates(self, rows: Array) -> Array:
        """Of rows (N, D): (N, r)."""
        if self.axes is None or self.centre is None:
            return rows
        return np.asarray((rows - self.centre) @ self.axes / np.float32(self.unit), np.float32)

    def unfold(self, tensors: Tensors) -> Tensors:
        """The head on D features that equals `tensors` on their coordinates. Only `up.0` changes:
        W(Aᵀ(x − c)/u) + b = (WAᵀ/u)x + b − (WAᵀ/u)c."""
        if self.axes is None or self.centre is None:
            return tensors
        weight = tensors["up.0.weight"] @ self.axes.T / np.float32(self.unit)
        bias = tensors["up.0.bias"] - weight @ self.centre
        return {
            **tensors,
            "up.0.weight": np.asarray(weight, np.float32),
            "up.0.bias": np.asarray(bias, np.float32),
        }


def subspace_of(rows: Array, seed: int, most: int = MOST, narrow: int = NARROW) -> Subspace:
    """The dimensions around the mean of rows (n, D) that hold most of them, at most `most`: those
    that they lie in, if these are no more. More rows than `most` keep up to `narrow` features as
    they are: of a thousand labels the largest 512 dimensions of 1,280 lose what tells them apart.

    The axes are turned at random, so that all of them vary alike. Along the principal axes
    themselves, Adam, whose steps are of one length in every coordinate, would make as much of the
    last as of the first.
    """
    n, features = rows.shape
    if features <= (n - 1 if n <= most else narrow):
        return Subspace()
    random = np.random.default_rng(seed)
    centre = rows.mean(axis=0)
    axes = _span(rows - centre) if n <= most else largest_axes(rows - centre, most, random)
    r = axes.shape[1]
    if not r:
        return Subspace()  # one row, or rows that are all the same
    turn = np.linalg.qr(random.standard_normal((r, r)))[0]
    return Subspace(np.asarray(axes @ turn, np.float32), centre, math.sqrt(features / r))


def _span(rows: Array) -> NDArray[np.float64]:
    """An orthonormal basis (D, r) of what rows (n, D) lie in."""
    wide = rows.astype(np.float64)
    eigenvalues, u = eigh(wide @ wide.T, driver="evd", check_finite=False)
    kept = eigenvalues > 1e-8 * eigenvalues[-1]
    return np.asarray(wide.T @ (u[:, kept] / np.sqrt(eigenvalues[kept])), np.float64)


def largest_axes(rows: Array, most: int, random: np.random.Generator) -> NDArray[np.float32]:
    """A basis (D, most) of about the dimensions that hold most of rows (n, D), the largest first.

    By randomised subspace iteration (Halko, Martinsson & Tropp, *Finding structure with
    randomness*, 2011).
    """
    n, features = rows.shape
    found = random.standard_normal((min(most + SPARE, features, n), n)).astype(np.float32) @ rows
    for _ in range(ROUNDS):
        basis = qr(found.T, mode="economic", overwrite_a=True, check_finite=False)[0]
        found = (rows @ basis).T @ rows
    basis = qr(found.T, mode="economic", overwrite_a=True, check_finite=False)[0]
    inside = rows @ basis
    axes = eigh(inside.T @ inside, driver="evd", check_finite=False)[1][:, ::-1]
    return np.asarray(basis @ axes[:, :most], np.float32)


def principal_axes(
    rows: NDArray[Any], span: NDArray[Any] | None = None
) -> tuple[NDArray[Any], NDArray[Any], Callable[[NDArray[Any]], NDArray[Any]]]:
    """Turn centred rows (n, D) onto their principal axes, by the smaller of the two Gram matrices.

    Returns Z (n, r), its squared column lengths (r,), ascending, and the map from coefficients on
    the axes (r,) or (r, k) to weights (D,) or (D, k). With `span` (D, m), orthonormal, of what lies
    in there. float32: its rounding moves a prediction by less than 0.001.
    """
    if span is not None:
        z, squares, inside = principal_axes(rows @ span)
        return z, squares, lambda c: span @ inside(c)
    n, features = rows.shape
    if features <= n:
        eigenvalues, axes = eigh(rows.T @ rows, driver="evd", check_finite=False)
        return rows @ axes, np.maximum(eigenvalues, 0).astype(np.float64), lambda c: axes @ c
    eigenvalues, u = eigh(rows @ rows.T, driver="evd", check_finite=False)
    # Centring leaves one eigenvalue that is 0 but for rounding, which must not be divided by.
    kept = eigenvalues > 1e-6 * eigenvalues[-1]
    lengths = np.sqrt(eigenvalues[kept])
    u = u[:, kept]
    return u * lengths, lengths.astype(np.float64) ** 2, lambda c: rows.T @ (u / lengths @ c)
