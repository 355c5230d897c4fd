"""What more labels would bring: the learning curve of a taste, followed ahead with its doubt.

*Measured* are linear heads on an eighth, a quarter, half, three quarters and nine tenths of the
labels, several of each, on images drawn at random that they never saw. *Followed ahead* is a power
law: after n labels the error is

    b + a · E · n^−c,

with a floor b that no labels of this kind go below, and E, the error of one fixed answer, as the
unit of the fall a. Pairs (a, c) are weighed by how probable they make what was measured, under a
flat prior of b, and by how common they are: `COMMON` was fitted on the curves of many tastes
(`python -m bench forecast`, docs/decisions/0038). Only differences between sizes say anything of a
and c, and in those cancels what the images judged have in common: the covariance of the measured
errors is over images, or over groups of them.

To the fall of the law belongs what no curve knows: which labels come next, and how this head
differs from the mean of all heads on so many labels. Most of the doubt is of that kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from tastemaker.learning.folds import Rows, Split, TrainingSet, deal_folds
from tastemaker.learning.ridge import ridge_or_none
from tastemaker.learning.version_metrics import Forecast, Gain, MeasuredSize

Floats = NDArray[np.float64]

AHEAD = (50, 100, 200)  # labels
FEWEST = 40  # training labels below which nothing is forecast
FEWEST_DRAWN = 30  # images drawn at random, by which it is measured
MOST = 500  # training labels that are refitted; the law is followed from there
SHARES = ((1, 8), (1, 4), (2, 4), (3, 4), (9, 10))  # so many of so many folds train
SMALLEST = 8  # labels of a head that is measured
WITHIN = 0.8  # the probability that the interval promises


@dataclass(frozen=True)
class Common:
    """What curves have in common, in units of E, the error of one fixed answer.

    `fall` is a, `log_power` is ln c: mean and standard deviation; a share `unusual` of all tastes
    falls by anything, with the standard deviation UNUSUAL. A measured error strays from the
    law by `straying` · n^(−`settling`/2), and a share `unshared` of its variance is not cancelled
    by a difference. The fall from n to m labels differs from the law's by a standard deviation of
    `drawing` · √((100/n)^q − (100/m)^q) / 10 with q = `steadying`.
    """

    fall: tuple[float, float]
    log_power: tuple[float, float]
    straying: float
    settling: float
    unshared: float
    drawing: float
    steadying: float
    unusual: float


UNUSUAL = 1.2
COMMON = Common(
    fall=(0.895, 0.212), log_power=(-1.171, 0.346), straying=0.15, settling=0.668, unshared=0.202,
    drawing=0.287, steadying=1.379, unusual=0.107,
)  # fmt: skip
# A head that starts from another begins lower, has less to gain, and which labels come matters
# less: about half as much of either on people's ratings, from the head of the others.
FROM_PRIOR = replace(COMMON, fall=(0.45, 0.3), drawing=0.17)


# --- measured ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SizedErrors:
    """Of heads on `sizes` (k,) labels, the absolute error in points of every image drawn at random,
    `errors` (rows, k), and of one fixed answer, `constant` (rows,). `groups` (rows,) are equal for
    images of one source; there are `labels` to train on. `from_prior` where the heads start from
    others."""

    labels: int
    sizes: Floats
    errors: Floats
    constant: Floats
    groups: NDArray[np.intp]
    from_prior: bool = False


def errors_by_size(data: TrainingSet, split: Split) -> SizedErrors:
    """Refit the linear head on shares of at most `MOST` training labels, and judge it by the whole
    random sample and the hold-out, but for the groups that it saw. An image left out by several
    heads of one size counts with its mean error. Needs `FEWEST` labels (see `why_none`)."""
    labels = np.flatnonzero(split.train)
    rng = np.random.default_rng(0)
    used = np.sort(rng.permutation(labels)[:MOST])
    judged = np.flatnonzero(_judges(data, split))
    groups, y = split.groups[used], data.y[used]
    sizes, errors = [], []
    for part, whole in SHARES:
        if part * len(used) < SMALLEST * whole:
            continue
        fold = deal_folds(groups, whole, seed=0)
        total, times = np.zeros(len(data.y)), np.zeros(len(data.y))
        shares = [(fold - first) % whole < part for first in range(whole)]
        seen_by = [seen for seen in shares if seen.any()]  # fewer groups than folds leave none
        for seen in seen_by:
            left = judged[~np.isin(split.groups[judged], groups[seen])]
            rows = used[seen]
            ridge = ridge_or_none(data.x[rows], y[seen], groups[seen], priors=data.priors)
            scores = (
                np.full(len(left), y[seen].mean()) if ridge is None else ridge.predict(data.x[left])
            )
            total[left] += 10 * np.abs(scores - data.y[left])
            times[left] += 1
        sizes.append(np.mean([seen.sum() for seen in seen_by]))
        errors.append(total[judged] / times[judged])
    return SizedErrors(
        labels=len(labels),
        sizes=np.array(sizes),
        errors=np.array(errors).T,
        constant=10 * np.abs(data.y[judged] - np.median(y)),
        groups=split.groups[judged],
        from_prior=bool(data.priors),
    )


def _judges(data: TrainingSet, split: Split) -> Rows:
    return np.asarray(data.drawn & split.train | split.holdout)


def why_none(labels: int, drawn: int, groups: int) -> str:
    """Why so many training labels, and images drawn at random in so many groups, carry no
    forecast, and from how many on they do; empty where they do."""
    if labels < FEWEST:
        return f"from {FEWEST} training labels on; there are {labels}"
    if min(drawn, groups) < FEWEST_DRAWN:
        return f"from {FEWEST_DRAWN} images drawn at random on; there are {min(drawn, groups)}"
    return ""


# --- followed ahead ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mixture:
    """Normal distributions of `mean` and `sd` (k,) with `weight` (k,), which add up to 1."""

    weight: Floats
    mean: Floats
    sd: Floats

    def expected(self) -> float:
        return float(self.weight @ self.mean)

    def quantile(self, share: float, extra: float = 0.0) -> float:
        """The value below which a share (0–1) of it lies; with an `extra` standard deviation."""
        sd = np.hypot(self.sd, extra)
        low, high = float((self.mean - 9 * sd).min()), float((self.mean + 9 * sd).max())
        for _ in range(50):
            middle = (low + high) / 2
            below = self.weight @ ndtr((middle - self.mean) / sd)
            low, high = (middle, high) if below < share else (low, middle)
        return (low + high) / 2


FALLS, POWERS = (
    axis.ravel()
    for axis in np.meshgrid(
        np.linspace(0, 4, 33), (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0), indexing="ij"
    )
)


@dataclass(frozen=True)
class Law:
    """The law as measured: of each pair of FALLS and POWERS how probable it is, `weight`, and its
    floor, `floor`; `unit` is the error of one fixed answer, in points."""

    weight: Floats
    floor: Floats
    unit: float
    common: Common

    def error(self, labels: float) -> float:
        """The error expected after so many labels, in points."""
        return float(self.weight @ (self.floor + self.unit * FALLS * labels**-POWERS))

    def gain(self, labels: float, more: float) -> Mixture:
        """By how many points the error after `labels` falls with so many more."""
        fall = self.unit * FALLS * (labels**-POWERS - (labels + more) ** -POWERS)
        q = self.common.steadying
        drawn = ((100 / labels) ** q - (100 / (labels + more)) ** q) ** 0.5 / 10
        sd = np.full(len(fall), self.common.drawing * self.unit * drawn)
        return Mixture(self.weight, fall, sd)


def fit_law(measured: SizedErrors, common: Common | None = None) -> Law:
    """The law behind errors at several sizes, by the posterior on a grid (Gelman et al., *Bayesian
    Data Analysis*, chapters 3 and 14)."""
    common = common or (FROM_PRIOR if measured.from_prior else COMMON)
    sizes, means = measured.sizes, measured.errors.mean(0)
    unit = max(float(measured.constant.mean()), 0.01)
    covariance = covariance_of_means(measured.errors, measured.groups)
    covariance[np.diag_indices_from(covariance)] *= 1 + common.unshared
    covariance += np.diag((common.straying * unit) ** 2 * sizes**-common.settling)

    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    ones = whiten.sum(1)
    left = whiten @ (means[:, None] - unit * FALLS * sizes[:, None] ** -POWERS)  # (sizes, pairs)
    floor = ones @ left / (ones @ ones)
    misfit = (left**2).sum(0) - floor**2 * (ones @ ones)
    likely = log_prior(common) - 0.5 * misfit
    weight = np.exp(likely - likely.max())
    return Law(weight / weight.sum(), floor, unit, common)


def log_prior(common: Common) -> Floats:
    """How common each pair of FALLS and POWERS is, but for a constant."""
    mean, sd = common.fall
    usual, unusual = (-0.5 * ((FALLS - mean) / spread) ** 2 for spread in (sd, UNUSUAL))
    falls = np.logaddexp(
        np.log((1 - common.unusual) / sd) + usual, np.log(common.unusual / UNUSUAL) + unusual
    )
    mean, sd = common.log_power
    return np.asarray(falls - 0.5 * ((np.log(POWERS) - mean) / sd) ** 2)


def covariance_of_means(errors: Floats, groups: NDArray[np.intp]) -> Floats:
    """Of the means of the columns of errors (rows, k), by groups (rows,) of rows: (k, k)."""
    at = np.unique(groups, return_inverse=True)[1].ravel()
    count = int(at.max()) + 1
    sums = np.zeros((count, errors.shape[1]))
    np.add.at(sums, at, errors - errors.mean(0))
    return np.asarray(sums.T @ sums / len(errors) ** 2 * count / max(count - 1, 1))


def forecast(data: TrainingSet, split: Split) -> Forecast:
    """By how many points the mean error falls with more labels, each with the interval that holds
    what happens with 80 % probability; or why nothing is forecast."""
    drawn = _judges(data, split)
    labels = int(split.train.sum())
    if why := why_none(labels, int(drawn.sum()), len(np.unique(split.groups[drawn]))):
        return Forecast(labels=labels, drawn=int(drawn.sum()), why=why)
    measured = errors_by_size(data, split)
    law = fit_law(measured)
    return Forecast(
        labels=labels,
        drawn=len(measured.groups),
        measured=tuple(
            MeasuredSize(labels=round(size), mae=float(mean))
            for size, mean in zip(measured.sizes, measured.errors.mean(0), strict=True)
        ),
        error=law.error(labels),
        gains=gains(law, labels),
    )


def gains(law: Law, labels: int, ahead: Sequence[int] = AHEAD) -> tuple[Gain, ...]:
    """What so many more labels bring after `labels`."""
    made = []
    for more in ahead:
        mixture = law.gain(labels, more)
        low, high = (mixture.quantile((1 + sign * WITHIN) / 2) for sign in (-1, 1))
        made.append(Gain(more=more, value=mixture.expected(), low=low, high=high))
    return tuple(made)
