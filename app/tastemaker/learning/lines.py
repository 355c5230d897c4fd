"""Heads of the city96 layout that see an embedding along one direction only, and those that are
lines there."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.learning.city96 import Array
from tastemaker.learning.quantiles import logistic

SATURATED = 9.0  # a logit beyond which a score is 0 or 1 within a hundredth of a point
BEND = 1e-4  # of a score; what a linear head loses in the layout is a hundredth of it


class Bends(Exception):
    """Why a head is no function of one direction, without a full stop."""


def direction(tensors: Mapping[str, Array]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The direction v (features,) along which a head looks, and how much each of its first neurons
    sees of v · x (hidden,). Raises `Bends` where its residual branch speaks, or there are several.
    """
    first = tensors["up.0.weight"].astype(np.float64)
    used = first[np.abs(first).sum(axis=1) > 0]
    branch = (tensors["up.1.long.4.weight"], tensors["up.1.long.4.bias"])
    if not len(used) or any(part.any() for part in branch):
        raise Bends("It is a network that bends")
    v = used[0]
    along = first @ v / (v @ v)
    if np.abs(first - along[:, None] * v).max() > 1e-6 * np.abs(v).max():
        raise Bends("It looks at the embedding in several directions")
    return v, along


def logits_along(
    tensors: Mapping[str, Array], along: NDArray[np.float64], t: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The logits (N,) of a head with one direction, where v · x is t (N,); in float64."""
    w = {name: value.astype(np.float64) for name, value in tensors.items() if "long" not in name}
    r = np.maximum(np.outer(t, along) + w["up.0.bias"], 0) @ w["down.0.weight"].T + w["down.0.bias"]
    r = r @ w["down.1.weight"].T + w["down.1.bias"]
    r = np.where(r > 0, r, 0.01 * r) @ w["down.4.weight"].T + w["down.4.bias"]
    logits: NDArray[np.float64] = 2 * (r @ w["down.5.weight"].T + w["down.5.bias"])[:, 0]
    return logits


def logit_line(
    tensors: Mapping[str, Array], x: NDArray[Any] | None = None
) -> tuple[NDArray[np.float32], float]:
    """The weights (D,) and the bias of a head whose logit is a line, on rows like x (N, D) and as
    far again beyond them on either side; without rows, wherever the score is neither 0 nor 1.
    Raises `Bends`."""
    v, along = direction(tensors)
    if x is None:
        first, second = logits_along(tensors, along, np.array([0.0, 1.0]))
        if second == first:
            raise Bends("It says the same of every image, or nearly so")
        centre, reach = first / (first - second), SATURATED / abs(second - first)
        t = np.linspace(centre - reach, centre + reach, 401)
    else:
        seen = np.asarray(x, np.float64) @ v
        reach = max(float(np.ptp(seen)), 1e-6)
        t = np.linspace(seen.min() - reach, seen.max() + reach, 401)
    logits = logits_along(tensors, along, t)
    slope = (logits[-1] - logits[0]) / (t[-1] - t[0])
    bias = logits[0] - slope * t[0]
    if np.abs(logistic(logits) - logistic(slope * t + bias)).max() > BEND:
        raise Bends("Its logit bends")
    return (slope * v).astype(np.float32), float(bias)


def followed(
    scores: NDArray[Any], x: NDArray[np.float32]
) -> tuple[NDArray[np.float32], float, float]:
    """The line whose logit follows scores (N,) in [0, 1] of rows x (N, D) best: weights (D,), bias,
    and the mean distance from the scores in points of 0–10, each by a line that never saw it."""
    from scipy.special import logit

    from tastemaker.learning.ridge import fit_ridge

    if np.ptp(scores) == 0:
        return np.zeros(x.shape[1], np.float32), float(logit(np.clip(scores[0], 1e-6, 1 - 1e-6))), 0
    fit = fit_ridge(x, scores)
    return *fit.raw(), 10 * float(np.abs(fit.out_of_group - scores).mean())
