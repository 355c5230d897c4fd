"""How good a head is, in numbers that carry their n and their interval.

Labels `y` and predictions `p` are scores in [0, 1]; errors are reported in points of the 0-10
scale, rates in 0-1. Pass means score >= threshold.

Every interval here is a bootstrap over *groups*: images cut from one photograph are not
independent witnesses, so a resample draws whole groups. A resample is only a weight per image (how
often its group was drawn), and each metric is a function of such weights (`weighted`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.learning import weighted
from tastemaker.learning.quantiles import normal_cdf, t_quantile
from tastemaker.learning.version_metrics import (
    BracketBias,
    BracketErrors,
    CalibrationPoint,
    Comparison,
    Estimate,
    LabelMetrics,
    PairedMetric,
    Verdict,
)
from tastemaker.learning.weighted import Floats, Statistic

RESAMPLES = 1000  # of small sets; large ones, whose intervals settle sooner, get 200
CONFIDENCE = 0.95
# Up to five groups can all point the same way by chance in more than 1 of 20 sets: no interval of
# a mean, and no verdict.
FEWEST_GROUPS = 6
AT_ONCE = 100_000  # weights of resamples that are in memory together

DEFAULT_BRACKETS = (0.0, 0.1, 0.2, 0.4, 0.5, 0.6, 1.0)


# ---------------------------------------------------------------- the metrics


def mae(y: ArrayLike, p: ArrayLike) -> float | None:
    """Mean absolute error in points of 0-10."""
    y, p = _pair(y, p)
    return _number(weighted.mae(y, p)(_ones(y)))


def spearman(y: ArrayLike, p: ArrayLike) -> float | None:
    """Rank correlation, -1 to 1, ties at their mid-rank; None if either side is constant."""
    y, p = _pair(y, p)
    return _number(weighted.spearman(y, p)(_ones(y)))


def auc(y: ArrayLike, p: ArrayLike, threshold: float = 0.5) -> float | None:
    """Chance that a passing image is predicted above a failing one; ties count half."""
    y, p = _pair(y, p)
    return _number(weighted.auc(y >= threshold, p)(_ones(y)))


def fp_rate(y: ArrayLike, p: ArrayLike, threshold: float = 0.5) -> float | None:
    """False positives ÷ predicted passes."""
    y, p = _pair(y, p)
    return _number(weighted.share(y < threshold, p >= threshold)(_ones(y)))


def fn_rate(y: ArrayLike, p: ArrayLike, threshold: float = 0.5) -> float | None:
    """False negatives ÷ labelled passes."""
    y, p = _pair(y, p)
    return _number(weighted.share(p < threshold, y >= threshold)(_ones(y)))


def error_at_threshold(y: ArrayLike, p: ArrayLike, threshold: float = 0.5) -> float | None:
    """Share of images on the wrong side of the threshold."""
    y, p = _pair(y, p)
    wrong = (y >= threshold) != (p >= threshold)
    return _number(weighted.share(wrong, np.ones(len(y), bool))(_ones(y)))


def bracket_mae(
    y: ArrayLike,
    p: ArrayLike,
    edges: Sequence[float] = DEFAULT_BRACKETS,
    groups: ArrayLike | None = None,
) -> tuple[BracketErrors, ...]:
    """MAE of the images *labelled* within each bracket [low, high); the last one includes its end.

    Shows regression to the mean, which a single MAE hides: `bias` is the mean of p − y in points.
    """
    y, p = _pair(y, p)
    keys = _keys(groups, len(y))
    rows = []
    for low, high in pairwise(edges):
        inside = (y >= low) & ((y < high) | ((high == edges[-1]) & (y <= high)))
        error = estimate(weighted.mae(y[inside], p[inside]), keys[inside], int(inside.sum()))
        bias = 10 * float(np.mean(p[inside] - y[inside])) if inside.any() else None
        rows.append(BracketErrors(low=low, high=high, mae=error, bias=bias))
    return tuple(rows)


def bracket_errors(
    y: ArrayLike, p: ArrayLike, edges: Sequence[float] = DEFAULT_BRACKETS
) -> tuple[BracketBias, ...]:
    """As `bracket_mae`, without intervals."""
    y, p = _pair(y, p)
    at = np.clip(np.searchsorted(edges, y, side="right") - 1, 0, len(edges) - 2)
    rows = []
    for i, (low, high) in enumerate(pairwise(edges)):
        apart = 10 * (p - y)[at == i]
        n = len(apart)
        error = float(np.abs(apart).mean()) if n else None
        bias = float(apart.mean()) if n else None
        rows.append(BracketBias(low=low, high=high, n=n, mae=error, bias=bias))
    return tuple(rows)


def calibration_curve(y: ArrayLike, p: ArrayLike, bins: int = 10) -> tuple[CalibrationPoint, ...]:
    """Mean prediction beside mean label (0-1) of the images predicted within each tenth of the
    scale. Tenths without an image are left out."""
    y, p = _pair(y, p)
    at = np.minimum((p * bins).astype(int), bins - 1)
    return tuple(
        CalibrationPoint(
            low=i / bins, high=(i + 1) / bins, predicted=float(p[at == i].mean()),
            labelled=float(y[at == i].mean()), n=int((at == i).sum()),
        )
        for i in np.unique(at).tolist()
    )  # fmt: skip


def coverage(y: ArrayLike, p: ArrayLike, uncertainty: ArrayLike) -> dict[str, float | None]:
    """Share of labels within score ± z·uncertainty, where a normal error would be 50, 80 and 95 %
    of the time; None without labels."""
    y, p, u = (np.asarray(v, np.float64).ravel() for v in (y, p, uncertainty))
    apart = np.abs(y - p)
    return {
        name: float(np.mean(apart <= z * u)) if len(y) else None
        for name, z in (("50", 0.674490), ("80", 1.281552), ("95", 1.959964))
    }


def percentiles(scores: ArrayLike) -> dict[str, float]:
    """Percentile → score, over predictions in [0, 1]; empty without any."""
    values = np.asarray(scores, np.float64).ravel()
    at = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
    if not len(values):
        return {}
    return {str(q): float(v) for q, v in zip(at, np.percentile(values, at), strict=True)}


def histogram(scores: ArrayLike) -> tuple[int, ...]:
    """Eleven counts: how many scores in [0, 1] are nearest to 0, 1, … 10 points."""
    values = np.asarray(scores, np.float64).ravel()
    values = values[np.isfinite(values)]
    points = np.floor(np.clip(values, 0, 1) * 10 + 0.5).astype(int)
    return tuple(np.bincount(points, minlength=11).tolist())


def histogram_of_predictions(scores: ArrayLike) -> tuple[int, ...]:
    """Twenty counts of scores, from 0 to 1."""
    return tuple(np.histogram(scores, bins=20, range=(0, 1))[0].tolist())


def summary(
    y: ArrayLike,
    p: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    threshold: float = 0.5,
    brackets: Sequence[float] = DEFAULT_BRACKETS,
    seed: int = 0,
) -> LabelMetrics:
    """Everything measured on one set of labels.

    Pairs with a missing prediction or label are left out. The n of a rate is its denominator.
    """
    y, p = np.asarray(y, np.float64).ravel(), np.asarray(p, np.float64).ravel()
    keys = _keys(groups, len(y))
    known = np.isfinite(y) & np.isfinite(p)
    y, p, keys = y[known], p[known], keys[known]
    passed, labelled = p >= threshold, y >= threshold

    def measured(statistic: Statistic, n: int) -> Estimate:
        return estimate(statistic, keys, n, seed=seed)

    def share(wrong: NDArray[np.bool_], among: NDArray[np.bool_]) -> Estimate:
        rate = measured(weighted.share(wrong, among), int(among.sum()))
        if rate.value not in (0.0, 1.0):
            return rate
        low, high = exact(rate.value, len(np.unique(keys[among])))  # no resample differs from it
        return Estimate(value=rate.value, low=low, high=high, n=rate.n)

    return LabelMetrics(
        n=len(y),
        groups=len(np.unique(keys)),
        threshold=threshold,
        mae=measured(weighted.mae(y, p), len(y)),
        spearman=measured(weighted.spearman(y, p), len(y)),
        auc=measured(weighted.auc(labelled, p), len(y)),
        fp_rate=share(~labelled, passed),
        fn_rate=share(~passed, labelled),
        error_at_threshold=share(passed != labelled, np.ones(len(y), bool)),
        brackets=bracket_mae(y, p, brackets, keys),
        calibration_curve=calibration_curve(y, p),
        labelled_histogram=histogram(y),
        predicted_histogram=histogram(p),
    )


# ---------------------------------------------------------------- intervals


def estimate(
    statistic: Statistic,
    groups: ArrayLike,
    n: int,
    *,
    resamples: int | None = None,
    seed: int = 0,
) -> Estimate:
    """A statistic of image weights, with its 95 % interval over resampled groups.

    `statistic` takes weights (..., len(groups)) and gives numbers (...), NaN where undefined.
    Percentile intervals are too short when groups are few; the tails are moved outwards to what
    Student's t asks for (the expanded percentile interval of Hesterberg 2015, section 5.3).
    """
    keys = _keys(groups, len(np.asarray(groups)))
    value = _number(statistic(np.ones(len(keys))))
    count = int(keys.max()) + 1 if len(keys) else 0
    if value is None or count < FEWEST_GROUPS:
        return Estimate(value=value, low=None, high=None, n=n)

    resamples = resamples or min(RESAMPLES, max(200, 5_000_000 // len(keys)))
    drawn = _resamples(count, resamples, seed)
    parts = np.array_split(drawn, min(resamples, 1 + resamples * len(keys) // AT_ONCE))
    values = np.concatenate([statistic(times[:, keys].astype(np.float64)) for times in parts])
    values = values[np.isfinite(values)]
    if not len(values):
        return Estimate(value=value, low=None, high=None, n=n)

    reach = np.sqrt(count / (count - 1)) * t_quantile((1 + CONFIDENCE) / 2, count - 1)
    tail = normal_cdf(-reach)
    low, high = np.quantile(values, [tail, 1 - tail])
    return Estimate(value=value, low=float(low), high=float(high), n=n)


@functools.lru_cache(maxsize=2)
def _resamples(count: int, resamples: int, seed: int) -> NDArray[np.uint16]:
    """How often each of `count` groups is drawn (resamples, count). Drawing takes as long as a
    statistic, and all statistics of one set are of the same draws."""
    random = np.random.default_rng(seed)
    drawn = random.multinomial(count, np.full(count, 1 / count), resamples).astype(np.uint16)
    drawn.flags.writeable = False
    return drawn


def exact(value: float, groups: int) -> tuple[float, float]:
    """The 95 % interval of a share that is 0 or 1 in all of so many groups (Clopper & Pearson
    1934), each group one witness."""
    reach = ((1 - CONFIDENCE) / 2) ** (1 / groups)
    return (0.0, 1 - reach) if value == 0 else (reach, 1.0)


def mean_error(
    y: ArrayLike,
    p: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    resamples: int | None = None,
    seed: int = 0,
) -> Estimate:
    """MAE in points of 0-10, with its interval."""
    y, p = np.asarray(y, np.float64).ravel(), np.asarray(p, np.float64).ravel()
    return estimate(
        weighted.mae(y, p), _keys(groups, len(y)), len(y), resamples=resamples, seed=seed
    )


def compare(
    new_errors: ArrayLike,
    old_errors: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    resamples: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Paired comparison of two heads by their absolute errors (0-1) on the same images.

    The verdict is 'better' (new errs less) or 'worse' only where the interval of the mean
    difference excludes 0, and there are at least six groups.
    """
    new, old = (
        np.asarray(new_errors, np.float64).ravel(),
        np.asarray(old_errors, np.float64).ravel(),
    )
    keys = _keys(groups, len(new))
    known = np.isfinite(new) & np.isfinite(old)
    points = 10 * (new - old)[known]
    keys = _keys(keys[known], len(points))
    difference = estimate(weighted.mean(points), keys, len(points), resamples=resamples, seed=seed)

    return Comparison(difference=difference, verdict=verdict_of(difference, keys))


def paired(
    y: ArrayLike,
    new: ArrayLike,
    old: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    threshold: float = 0.5,
    resamples: int | None = None,
    seed: int = 0,
) -> dict[str, PairedMetric]:
    """Every metric of two heads on the same labels, by name. The difference is new − old within
    each resample, so what both find hard cancels. Triples with a missing number are left out."""
    y, new, old = (np.asarray(v, np.float64).ravel() for v in (y, new, old))
    known = np.isfinite(y) & np.isfinite(new) & np.isfinite(old)
    keys = _keys(_keys(groups, len(y))[known], int(known.sum()))
    y, new, old = y[known], new[known], old[known]
    passes, everything = y >= threshold, np.ones(len(y), bool)

    def statistics(p: Floats) -> dict[str, Statistic]:
        passed = p >= threshold
        return {
            "mae": weighted.mae(y, p),
            "error_at_threshold": weighted.share(passed != passes, everything),
            "fp_rate": weighted.share(~passes, passed),
            "fn_rate": weighted.share(~passed, passes),
            "spearman": weighted.spearman(y, p),
            "auc": weighted.auc(passes, p),
        }

    rows: dict[str, PairedMetric] = {}
    after, before = statistics(new), statistics(old)
    for name in after:
        difference = estimate(
            _minus(after[name], before[name]), keys, len(y), resamples=resamples, seed=seed
        )
        rows[name] = PairedMetric(
            new=_number(after[name](_ones(y))),
            old=_number(before[name](_ones(y))),
            difference=difference,
            verdict=verdict_of(difference, keys, lower_is_better=name not in ("spearman", "auc")),
        )
    return rows


def _minus(one: Statistic, other: Statistic) -> Statistic:
    return lambda w: one(w) - other(w)


def verdict_of(
    difference: Estimate, keys: NDArray[np.intp], *, lower_is_better: bool = True
) -> Verdict:
    if len(np.unique(keys)) < FEWEST_GROUPS or difference.low is None or difference.high is None:
        return "no difference shown"
    if difference.high < 0:
        return "better" if lower_is_better else "worse"
    if difference.low > 0:
        return "worse" if lower_is_better else "better"
    return "no difference shown"


# ---------------------------------------------------------------- small print


def _pair(y: ArrayLike, p: ArrayLike) -> tuple[Floats, Floats]:
    """Both sides as float64, without the pairs in which either is missing."""
    y, p = np.asarray(y, np.float64).ravel(), np.asarray(p, np.float64).ravel()
    known = np.isfinite(y) & np.isfinite(p)
    return y[known], p[known]


def _keys(groups: ArrayLike | None, n: int) -> NDArray[np.intp]:
    """Group of each image as 0, 1, …; every image its own group by default."""
    if groups is None:
        return np.arange(n)
    return np.unique(np.asarray(groups), return_inverse=True)[1].ravel()


def _ones(values: Floats) -> Floats:
    return np.ones(len(values))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
