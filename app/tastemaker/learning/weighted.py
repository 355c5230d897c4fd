"""Metrics as functions of weights: what a metric would be if image i counted w_i times.

Each function takes what is known of n images and gives a `Statistic`, which takes the weights of
many resamples at once. Asked one resample after the other they take several times as long.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]
Statistic = Callable[[Floats], Any]  # (..., n) weights -> (...), NaN where it is undefined


def ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    """part ÷ whole, NaN where the whole is 0."""
    whole = np.asarray(whole, np.float64)
    found = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=found, where=whole != 0)
    return found


def mean(values: Floats) -> Statistic:
    return lambda w: ratio(w @ values, w.sum(-1))


def mae(y: Floats, p: Floats) -> Statistic:
    return mean(10 * np.abs(p - y))


def share(wrong: NDArray[np.bool_], among: NDArray[np.bool_]) -> Statistic:
    both, base = (wrong & among).astype(np.float64), among.astype(np.float64)
    return lambda w: ratio(w @ both, w @ base)


def spearman(y: Floats, p: Floats) -> Statistic:
    y_ranks, p_ranks = _mid_ranks(y), _mid_ranks(p)

    def of(w: Floats) -> Floats:
        total = w.sum(-1, keepdims=True)
        a, b = y_ranks(w), p_ranks(w)
        a -= ratio((w * a).sum(-1, keepdims=True), total)
        b -= ratio((w * b).sum(-1, keepdims=True), total)
        spread = (w * a * a).sum(-1) * (w * b * b).sum(-1)
        return ratio((w * a * b).sum(-1), np.sqrt(spread))

    return of


def _mass(values: Floats) -> tuple[Statistic, NDArray[np.intp]]:
    """What finds the weight at each of the k distinct values, in ascending order, (..., n) ->
    (..., k); and which of them each value is, (n,)."""
    distinct, at = np.unique(values, return_inverse=True)
    order = np.argsort(at, kind="stable")
    starts = np.searchsorted(at[order], np.arange(len(distinct)))
    return lambda w: np.add.reduceat(w[..., order], starts, axis=-1), at


def _mid_ranks(values: Floats) -> Callable[[Floats], Floats]:
    """What ranks each image when image i counts w_i times (up to a constant): (..., n) both."""
    mass_of, at = _mass(values)

    def ranks(w: Floats) -> Floats:
        mass = mass_of(w)
        return np.asarray((np.cumsum(mass, -1) - mass / 2)[..., at])

    return ranks


def auc(positive: NDArray[np.bool_], p: Floats) -> Statistic:
    mass_of, _ = _mass(p)

    def of(w: Floats) -> Floats:
        above, below = mass_of(w * positive), mass_of(w * ~positive)
        wins = (above * (np.cumsum(below, -1) - below / 2)).sum(-1)
        return ratio(wins, above.sum(-1) * below.sum(-1))

    return of
