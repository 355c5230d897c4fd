"""Many ratios of sums over the same images at once, each with its 95 % interval: shares, precision,
recall and F1 of every class. The interval is that of `metrics.estimate`, of all of them together
in two products of matrices."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.learning.metrics import CONFIDENCE, FEWEST_GROUPS, exact
from tastemaker.learning.quantiles import normal_cdf, t_quantile
from tastemaker.learning.version_metrics import Estimate

Floats = NDArray[np.floating[Any]]
RESAMPLES = 400


def ratios(
    tops: Floats,
    bottoms: Floats,
    counts: NDArray[np.integer],
    groups: NDArray[np.integer],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """M estimates Σ tops / Σ bottoms, of (n, M) each; counts (M,) is the n that each names, groups
    (n,) the group of every image. One over nothing has no value, and none of too few groups an
    interval. Of a ratio of 0 or 1, each of whose groups is one witness, the interval is exact."""
    _, keys = np.unique(groups, return_inverse=True)
    count = int(keys.max()) + 1 if len(keys) else 0
    of = np.zeros((2, count, tops.shape[1]))
    np.add.at(of[0], keys, tops)
    np.add.at(of[1], keys, bottoms)
    total = of.sum(axis=1)
    low = high = np.full(tops.shape[1], np.nan)
    if count >= FEWEST_GROUPS:
        random = np.random.default_rng(seed)
        drawn = random.multinomial(count, np.full(count, 1 / count), resamples).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (drawn @ of[0]) / (drawn @ of[1])
        reach = np.sqrt(count / (count - 1)) * t_quantile((1 + CONFIDENCE) / 2, count - 1)
        tail = normal_cdf(-reach)
        known = np.isfinite(found).any(axis=0)
        low, high = np.full((2, tops.shape[1]), np.nan)
        low[known], high[known] = np.nanquantile(found[:, known], [tail, 1 - tail], axis=0)
    told = []
    for k, n in enumerate(counts.tolist()):
        value = float(total[0, k] / total[1, k]) if total[1, k] else None
        ends: tuple[float | None, float | None] = (None, None)
        if value is not None and np.isfinite(low[k]):
            ends = float(low[k]), float(high[k])
            if value in (0.0, 1.0):
                ends = exact(value, int((of[1, :, k] > 0).sum()))
        told.append(Estimate(value=value, low=ends[0], high=ends[1], n=n))
    return told
