"""The draw near the threshold that the Mixed queue had before, kept to be compared with.

An image was drawn with p ∝ (exp(−z²/2·0.15²) + 0.01) · lesson, z = (score − threshold)/sd. The
lesson is the fall in the variance of the ridge's predictions that a label would bring, averaged
over the library with weights exp(−z²/2) + 0.001 (Cohn 1996; Yu, Bi & Tresp 2006).
"""

from __future__ import annotations

import numpy as np

from tastemaker.replay.runs import Pool, Rows, pick_random

WIDTH, FLOOR, CONTROL = 0.15, 0.01, 0.2


def pick_near(pool: Pool, by_lesson: bool = True) -> Rows:
    """A fifth control, the rest near the threshold: by distance and lesson, or distance alone."""
    if pool.scores is None or pool.sd is None or pool.penalty is None:
        return pick_random(pool)
    control_rng, near_rng = np.random.default_rng(pool.seed).spawn(2)
    rows = control_rng.permutation(np.flatnonzero(pool.free))
    control, rows = np.split(rows, [round(CONTROL * pool.count)])
    z = (pool.scores - pool.threshold) / pool.sd
    keys = np.logaddexp(-(z[rows] ** 2) / (2 * WIDTH**2), np.log(FLOOR))
    if by_lesson:
        known = np.concatenate([pool.labelled, control]).astype(np.intp)
        keys += np.log(_lessons(pool.features, known, z, rows, pool.penalty))
    keys += near_rng.gumbel(size=len(rows))
    near = rows[np.argsort(-keys, kind="stable")[: pool.count - len(control)]]
    return control_rng.permutation(np.concatenate([control, near]))


def _lessons(
    features: np.ndarray, known: Rows, z: np.ndarray, rows: Rows, penalty: float
) -> np.ndarray:
    """xᵀSMSx ÷ (1 + xᵀSx) of every row x, with M the weighted mean of x'x'ᵀ."""
    centre = features[known].mean(0)
    labelled = (features[known] - centre).astype(np.float64)
    precision = labelled.T @ labelled
    precision[np.diag_indices_from(precision)] += penalty
    covariance = np.linalg.inv(precision).astype(np.float32)
    others, weights = features - centre, (np.exp(-(z**2) / 2) + 1e-3).astype(np.float32)
    of_all = (others * weights[:, None]).T @ others / weights.sum()
    x = features[rows] - centre
    seen = x @ covariance
    gain = np.einsum("ij,ij->i", seen @ of_all, seen)
    return np.maximum(gain, np.float32(1e-30)) / (1 + np.einsum("ij,ij->i", seen, x))
