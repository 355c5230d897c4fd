"""Calibration against regression to the mean: scores that bunch in the middle, spread out again.

A fitted head errs towards the middle, because that is where it is punished least. Platt scaling
stretches the logit, ℓ → a·ℓ + c, with a and c fitted on out-of-fold scores; it folds into the last
layer without loss. Whether it helps is judged by predictions that had no part in a and c: each
fold is stretched by what the other folds ask for. It is kept only where that shows a gain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from tastemaker.learning import metrics
from tastemaker.learning.checkpoints import Array
from tastemaker.learning.heads import fold_platt
from tastemaker.learning.recipes import Fit, Member

EDGE = 1e-4  # scores this near to 0 or 1 have no useful logit
SOFT = 0.01  # below a tenth of a point, an error counts by its square: |e| has no slope at 0


@dataclass(frozen=True)
class LogitScaling:
    """Score → sigmoid(slope · logit(score) + intercept)."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, scores: ArrayLike) -> Array:
        inside = np.clip(np.asarray(scores, np.float64), EDGE, 1 - EDGE)
        return expit(self.slope * logit(inside) + self.intercept).astype(np.float32)


@dataclass(frozen=True)
class Calibrated:
    """A member behind a stretch."""

    member: Member
    stretch: LogitScaling

    def __call__(self, x: NDArray[Any]) -> Array:
        return self.stretch(self.member(x))


def fit_logit_scaling(scores: ArrayLike, y: ArrayLike) -> LogitScaling:
    """The stretch with the smallest mean error on scores (n,) and labels (n,) in 0-1."""
    at = logit(np.clip(np.asarray(scores, np.float64), EDGE, 1 - EDGE))
    target = np.asarray(y, np.float64)

    def error(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_slope, intercept = parameters
        said = expit(np.exp(log_slope) * at + intercept)
        apart = said - target
        size = np.sqrt(apart**2 + SOFT**2)
        steep = apart / size * said * (1 - said)
        # A touch of pull towards "as it is", so that ten labels cannot ask for the absurd.
        value = size.mean() + (log_slope**2 + intercept**2) / (2 * len(target))
        down = np.array([(steep * np.exp(log_slope) * at).mean(), steep.mean()])
        return float(value), down + parameters / len(target)

    found = minimize(error, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-1, 1.5), (-2, 2)])
    return LogitScaling(float(np.exp(found.x[0])), float(found.x[1]))


def calibrate(
    fit: Fit, y: Array, groups: NDArray[np.integer], fold: NDArray[np.integer], threshold: float
) -> tuple[Fit, dict[str, Any]]:
    """The fit with its scores stretched where that helps, and what was found.

    y, groups, fold (trained,) belong to `fit.oof`. It is kept if the mean error, or the error at
    the threshold, is shown to fall, and the other is not shown to rise.
    """
    each = {
        k: fit_logit_scaling(fit.oof[fold != k], y[fold != k]) for k in np.unique(fold).tolist()
    }
    stretched = np.empty_like(fit.oof)
    for k, stretch in each.items():
        stretched[fold == k] = stretch(fit.oof[fold == k])
    duel = metrics.compare(np.abs(stretched - y), np.abs(fit.oof - y), groups)
    wrong, was_wrong = (((p >= threshold) != (y >= threshold)) / 10 for p in (stretched, fit.oof))
    sides = metrics.compare(wrong, was_wrong, groups)  # ÷ 10: rates, where `compare` has points
    verdicts = {duel.verdict, sides.verdict}
    kept = "better" in verdicts and "worse" not in verdicts
    whole = fit_logit_scaling(fit.oof, y)
    found: dict[str, Any] = {
        "slope": whole.slope,
        "intercept": whole.intercept,
        "kept": kept,
        "why": (
            f"out-of-fold, the mean error is {_worded(duel.verdict)} and the error at the "
            f"threshold is {_worded(sides.verdict)}"
        ),
        "mae": duel.as_dict(),
        "error_at_threshold": sides.as_dict(),
        "brackets_before": metrics.bracket_errors(y, fit.oof),
        "brackets_after": metrics.bracket_errors(y, stretched),
    }
    if not kept:
        return fit, found
    members = tuple(
        Calibrated(member, each[k]) if k in each else member for k, member in enumerate(fit.members)
    )
    tensors = fold_platt(fit.tensors, whole.slope, whole.intercept)
    fit = replace(fit, tensors=tensors, oof=stretched, by_members=stretched, members=members)
    return fit, found


def _worded(verdict: str) -> str:
    return {"better": "smaller", "worse": "larger"}.get(verdict, "not shown to change")
