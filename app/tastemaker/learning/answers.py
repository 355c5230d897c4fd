"""Every answer counts: what a person says besides scores, in one likelihood with them.

A ridge is the mean of a Gaussian posterior over lines (Rasmussen & Williams 2006, chapter 2): given
the scores, what it says of any images is normal, with a known covariance. Onto that come

- pairs: P(a is better than b) = Φ((f(a) − f(b)) / τ − κ), and what is left between is even;
- sweeps: P(the score is at least t) = Φ((f − t) / τ);
- who skips is unsure: like an even pair of the image with the threshold;
- repeats: an older score of the same image by the same person, normal about f with deviation τ.

All of them are log-concave, so Laplace's approximation has one mode, which Newton's method finds
in a few steps (algorithm 3.1 there; Chu & Ghahramani 2005 for pairs). At the mode each answer is a
*site*: a pseudo-score with a weight, as if somebody had measured the difference or the image. A
ridge is updated by them in `updating`.

τ is the noise of the scores times a ratio for each kind of answer, which the answers choose by
their evidence: whoever says that a beats b, b beats c and c beats a teaches that pairs are noisy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import log_ndtr, ndtri

Array = NDArray[Any]
Floats = NDArray[np.float64]

RATIOS = (0.5, 1.0, 2.0, 4.0)  # of the noise of an answer to that of the scores
BAND = 0.25  # κ of a skip: who is at the threshold skips one in five
RATIO_SD = 0.7  # of the logarithm of that ratio, before the first answer
FOR_CHOICE = 80  # answers by whose evidence ratios and penalties are chosen, evenly spread
STEPS = 30  # of Newton's method, which as a rule needs six
NONE = np.empty(0, np.intp)


@dataclass(frozen=True)
class Answers:
    """What was said of images besides scores.

    x (m, D) are the features of the images and groups (m,) their sources. Each of the answers (a,)
    is about the row `first` of x. With a row `second` (else −1) it is a pair, `share` of whose win,
    1, 0 or ½, goes to the first. Else, with a `share`, it is a sweep, 1 where the score is at least
    `bound` (in 0–1), 0 where it is less; or a skip, ½. Without (NaN), `bound` is an older score.
    """

    x: Array
    groups: NDArray[np.integer]
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    share: Floats
    bound: Floats

    def __len__(self) -> int:
        return len(self.first)

    @property
    def is_pair(self) -> NDArray[np.bool_]:
        return np.asarray(self.second >= 0)

    @property
    def is_repeat(self) -> NDArray[np.bool_]:
        return np.asarray(~self.is_pair & np.isnan(self.share))

    @property
    def is_skip(self) -> NDArray[np.bool_]:
        return np.asarray(~self.is_pair & (self.share == 0.5))

    @property
    def is_sweep(self) -> NDArray[np.bool_]:
        return ~(self.is_pair | self.is_repeat | self.is_skip)

    def only(self, kept: NDArray[Any]) -> Answers:
        """Some of the answers, by a mask or by their positions."""
        return replace(
            self, first=self.first[kept], second=self.second[kept], share=self.share[kept],
            bound=self.bound[kept],
        )  # fmt: skip

    def touching(self, groups: Array) -> NDArray[np.bool_]:
        """(a,) whether an image of the answer is of one of these groups."""
        inside = np.isin(self.groups, groups)
        return np.asarray(inside[self.first] | (self.is_pair & inside[self.second]))

    def differences(self, values: Array) -> Array:
        """From values (m,) or (m, k) of the images to those that the answers are about: the first's
        less the second's."""
        result = values[self.first]
        result[self.is_pair] -= values[self.second[self.is_pair]]
        return np.asarray(result)


def answers_about(
    x: Array,
    groups: NDArray[np.integer],
    first: Array,
    second: Array,
    share: Array,
    bound: Array,
) -> Answers:
    """Answers about rows of x (N, D) and groups (N,), by their numbers; −1 for no second image.
    Only the rows that are spoken of are kept."""
    first, second = np.asarray(first, np.intp), np.asarray(second, np.intp)
    rows = np.unique(np.concatenate([first, second[second >= 0]]))
    return Answers(
        x=np.asarray(x[rows], np.float32),
        groups=np.asarray(groups)[rows],
        first=np.searchsorted(rows, first),
        second=np.where(second < 0, -1, np.searchsorted(rows, second)),
        share=np.asarray(share, np.float64),
        bound=np.asarray(bound, np.float64),
    )


# ---------------------------------------------------------------- the likelihood


@dataclass(frozen=True)
class Likelihood:
    """Of answers, by the values u (a,) that they are about, in units of the link: `offset` (a,) is
    what u is compared with, `sd` (a,) the noise, `share` (a,) as in `Answers`, NaN where u is
    measured, and `band` (a,) how far, in units of the noise, from where it is even."""

    offset: Floats
    share: Floats
    sd: Floats
    band: Floats

    def at(self, u: Floats) -> tuple[Floats, Floats, Floats]:
        """Its logarithm, its slope and how much the slope falls, each (a,)."""
        z = (u - self.offset) / self.sd
        value = _log_density(z) - np.log(self.sd)  # of what is measured
        slope, fall = -z, np.ones_like(z)

        won, lost, even = self.share == 1, self.share == 0, self.share == 0.5
        sign = np.where(lost, -1.0, 1.0)
        beyond = sign * z - self.band
        log_won = log_ndtr(beyond)
        steep = np.exp(_log_density(beyond) - log_won)
        decided = won | lost
        value = np.where(decided, log_won, value)
        slope = np.where(decided, sign * steep, slope)
        fall = np.where(decided, steep * (steep + beyond), fall)

        near, far = self.band - abs(z), -self.band - abs(z)
        log_near = log_ndtr(near)
        with np.errstate(divide="ignore"):  # no band: nothing is even
            log_even = log_near + np.log(-np.expm1(log_ndtr(far) - log_near))
        at_near, at_far = (
            np.exp(_log_density(end) - np.where(even, log_even, 0)) for end in (near, far)
        )
        steep = at_far - at_near
        value = np.where(even, log_even, value)
        slope = np.where(even, np.sign(z) * steep, slope)
        fall = np.where(even, near * at_near - far * at_far + steep**2, fall)
        return value, slope / self.sd, np.maximum(fall, 1e-10) / self.sd**2


def _log_density(z: Floats) -> Floats:
    return np.asarray(-0.5 * z**2 - 0.5 * np.log(2 * np.pi))


Ratios = tuple[float, float, float, float]  # of pairs, sweeps, skips and repeats


def even_band(answers: Answers) -> float:
    """κ of the pairs: by how many are called even, if the values differ by as much as the noise."""
    pairs = answers.is_pair
    even = float(np.mean(answers.share[pairs] == 0.5)) if pairs.any() else 0.0
    return float(np.sqrt(2) * ndtri((1 + min(even, 0.9)) / 2))


def likelihood(
    answers: Answers, bound: Floats, noise: float, ratios: Sequence[float]
) -> Likelihood:
    """Of these answers, their `bound` (a,) in units of the link (anything for pairs), where the
    scores have that noise and pairs, sweeps, skips and repeats so many times as much."""
    pairs = answers.is_pair
    kinds = (pairs, answers.is_sweep, answers.is_skip, answers.is_repeat)
    ratio = np.select(kinds, [ratios[0] * np.sqrt(2), *ratios[1:]])
    band = np.select(kinds, [even_band(answers), 0.0, BAND, 0.0])
    return Likelihood(np.where(pairs, 0.0, bound), answers.share, ratio * noise, band)


@dataclass(frozen=True)
class Sites:
    """Answers as pseudo-scores at the mode: `slope` (a,) of the log likelihood there, `weight` (a,)
    the precision of each; `evidence` is the logarithm of how probable the answers were."""

    slope: Floats
    weight: Floats
    evidence: float


def find_sites(mean: Floats, covariance: Floats, said: Likelihood) -> Sites:
    """Laplace's approximation for values (a,) that are normal with this mean and covariance."""
    values = mean.copy()
    dual = np.zeros_like(values)  # values = mean + covariance · dual
    logs, slope, weight = said.at(values)
    best = float(logs.sum())
    for _ in range(STEPS):
        root = np.sqrt(weight)
        factor = _factor(root, covariance)
        aim = weight * (values - mean) + slope
        whole = aim - root * cho_solve(factor, root * (covariance @ aim), check_finite=False)
        step = 1.0
        while True:  # a whole step may overshoot where Φ is flat
            tried = dual + step * (whole - dual)
            there = mean + covariance @ tried
            logs, slope, weight = said.at(there)
            now = float(logs.sum() - 0.5 * tried @ (there - mean))
            if now >= best - 1e-10 * (1 + abs(best)) or step < 1e-3:
                break
            step /= 2
        gained, best, dual, values = now - best, now, tried, there
        if gained < 1e-9 * (1 + abs(best)):
            break
    occam = np.log(np.diag(_factor(np.sqrt(weight), covariance)[0])).sum()
    return Sites(slope, weight, best - float(occam))


def _factor(root: Floats, covariance: Floats) -> Any:
    """Cholesky's factor of I + W½KW½ for the roots (a,) of the weights W."""
    system = np.eye(len(root)) + root[:, None] * covariance * root
    return cho_factor(system, lower=True, overwrite_a=True, check_finite=False)


def choose_ratios(
    answers: Answers, bound: Floats, noise: float, mean: Floats, covariance: Floats
) -> Ratios:
    """The ratios of the noise of each kind of answer that the answers bear out."""
    chosen = [1.0] * 4
    kinds = (answers.is_pair, answers.is_sweep, answers.is_skip, answers.is_repeat)
    for kind, some in enumerate(kinds):
        rows = spread_over(np.flatnonzero(some))
        if not len(rows):
            continue
        few = answers.only(rows)
        gained = []
        for ratio in RATIOS:
            ratios = [*chosen[:kind], ratio, *chosen[kind + 1 :]]
            said = likelihood(few, bound[rows], noise, ratios)
            sites = find_sites(mean[rows], covariance[np.ix_(rows, rows)], said)
            gained.append(sites.evidence - 0.5 * (np.log(ratio) / RATIO_SD) ** 2)
        chosen[kind] = RATIOS[int(np.argmax(gained))]
    return chosen[0], chosen[1], chosen[2], chosen[3]


def spread_over(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """At most `FOR_CHOICE` of the rows, evenly spread over them."""
    if len(rows) <= FOR_CHOICE:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, FOR_CHOICE).round().astype(np.intp)])
