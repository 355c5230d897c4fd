"""Every answer counts: what a person says besides scores, in one likelihood with them.

A ridge is the mean of a Gaussian posterior over lines (Rasmussen & Williams 2006, chapter 2): given
the scores, what it says of any images is normal, with a known covariance. Onto that come

- pairs: P(a is better than b) = Φ((f(a) − f(b)) / τ − κ), and what is left between is even;
- sweeps: P(the score is at least t) = Φ((f − t) / τ);
- who skips is unsure: like an even pair of the image with the threshold;
- repeats: an older score of the same image by the same person, normal about f with deviation τ.

All of them are log-concave, so Laplace's approximation has one mode, which Newton's method finds
in a few steps (algorithm 3.1 there; Chu & Ghahramani 2005 for pairs). At the mode each answer is a
*site*: a pseudo-score with a weight, as if somebody had measured the difference or the image. The
ridge with its sites is again a linear smoother, so what a fit without some of them would say needs
no refitting.

τ is the noise of the scores times a ratio for each kind of answer, which the answers choose by
their evidence: whoever says that a beats b, b beats c and c beats a teaches that pairs are noisy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
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
        rows = _spread(np.flatnonzero(some))
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


def _spread(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """At most `FOR_CHOICE` of the rows, evenly spread over them."""
    if len(rows) <= FOR_CHOICE:
        return rows
    return np.asarray(rows[np.linspace(0, len(rows) - 1, FOR_CHOICE).round().astype(np.intp)])


# ---------------------------------------------------------------- on the axes of the scores


@dataclass(frozen=True)
class Asked:
    """Answers in the units of a ridge, and on the principal axes of its scored rows.

    `u` (a, D) are the features that each is about, less the mean of the scored rows unless it is a
    pair, `q` (a, axes) the same on the axes, and `rest` (a, a) the products of what lies outside
    them. `level` (a,) is 1 where the level counts (no pair), `bound` (a,) is in units of the link,
    and `scored` is how many scores the level rests on.
    """

    answers: Answers
    u: Array
    q: Floats
    rest: Floats
    level: Floats
    bound: Floats
    scored: int

    def covariance(self, eigenvalues: Array, penalty: float) -> Floats:
        """(a, a) of the values, given the scores, in units of the noise."""
        inside = (self.q / (eigenvalues + penalty)) @ self.q.T
        return np.asarray(
            inside + self.rest / penalty + np.outer(self.level, self.level) / self.scored
        )

    def only(self, rows: NDArray[np.intp]) -> Asked:
        """Some of them, by their positions."""
        return Asked(
            self.answers.only(rows), self.u[rows], self.q[rows], self.rest[np.ix_(rows, rows)],
            self.level[rows], self.bound[rows], self.scored,
        )  # fmt: skip


def ask(
    answers: Answers, bound: Floats, rows: Array, z: Array, eigenvalues: Array,
    mean: Array, scale: Array,
) -> Asked:  # fmt: skip
    """Answers in the units of a ridge: `rows` (n, D) are the scored rows less their `mean` (D,),
    over `scale` (D,), `z` (n, axes) the same on their axes; `bound` (a,) is in link units."""
    u = answers.differences((np.asarray(answers.x, np.float32) - mean) / scale)
    kept = eigenvalues > 1e-7 * max(float(eigenvalues.max(initial=0)), 1e-30)
    q = np.zeros((len(answers), len(eigenvalues)))
    q[:, kept] = (u @ rows.T) @ (z[:, kept] / eigenvalues[kept])
    exact = u.astype(np.float64)
    rest = exact @ exact.T - q @ q.T
    level = (~answers.is_pair).astype(np.float64)
    return Asked(answers, u, q, (rest + rest.T) / 2, level, bound, len(rows))


def evidence_of(
    asked: Asked,
    eigenvalues: Array,
    penalties: Array,
    noises: Array,
    means: Callable[[int], Floats],
    usual: int,
) -> Floats:
    """How probable the answers are, given the scores, under every penalty: the logarithm, (p,).
    `noises` (p,) are those of the scores, `means(i)` (a,) what the line fitted at the penalty i
    says of the answers, and `usual` the penalty that the scores alone would choose. Every fourth
    penalty is tried, and the others lie between."""
    rows = _spread(np.arange(len(asked.answers)))
    few = asked.only(rows)

    def facts(at: int) -> tuple[float, Floats, Floats]:
        noise = float(noises[at])
        covariance = noise**2 * few.covariance(eigenvalues, float(penalties[at]))
        return noise, means(at)[rows], covariance

    ratios = choose_ratios(few.answers, few.bound, *facts(usual))
    tried = sorted({*range(0, len(penalties), 4), len(penalties) - 1})
    found = []
    for at in tried:
        noise, mean, covariance = facts(at)
        said = likelihood(few.answers, few.bound, noise, ratios)
        found.append(find_sites(mean, covariance, said).evidence)
    return np.asarray(np.interp(np.arange(len(penalties)), tried, found), np.float64)


@dataclass(frozen=True)
class Learned:
    """A ridge that answers were added to: its `weights` (D,) in scaled units and its `level`; the
    change `left_out` (n,) of the predictions that never saw the label nor an answer about its
    group; the `weight` (a,) of each answer, in labels; the `ratios` of their noise."""

    weights: Floats
    level: float
    left_out: Floats
    weight: tuple[float, ...]
    ratios: Ratios


def learn(
    asked: Asked,
    z: Array,
    eigenvalues: Array,
    groups: NDArray[np.integer],
    *,
    to_weights: Callable[[Array], Array],
    weights: Array,
    level: float,
    penalty: float,
    noise: float,
    residuals: Floats,
) -> Learned:
    """Update a ridge by answers: its `weights` (D,) in scaled units and its `level` at the mean of
    the scored rows, `noise` the standard deviation of a score about it and `residuals` (n,) label −
    fitted value, in units of the link; `groups` (n,) are the labels'."""
    mean = asked.u @ weights + level * asked.level
    covariance = noise**2 * asked.covariance(eigenvalues, penalty)
    ratios = choose_ratios(asked.answers, asked.bound, noise, mean, covariance)
    sites = find_sites(mean, covariance, likelihood(asked.answers, asked.bound, noise, ratios))
    moved = noise**2 * sites.slope

    # Back to weights: on the axes by their eigenvalues, outside them by the penalty alone.
    on_axes = moved @ asked.q
    outside = moved @ asked.u - to_weights(on_axes)
    change = to_weights(on_axes / (eigenvalues + penalty)) + outside / penalty
    return Learned(
        weights + change,
        level + float(moved @ asked.level) / asked.scored,
        _left_out(asked, z, eigenvalues, groups, penalty, noise, residuals, sites, covariance),
        tuple((sites.weight * noise**2).tolist()),
        ratios,
    )


def _left_out(
    asked: Asked,
    z: Array,
    eigenvalues: Array,
    groups: NDArray[np.integer],
    penalty: float,
    noise: float,
    residuals: Floats,
    sites: Sites,
    covariance: Floats,
) -> Floats:
    """How the answers change the predictions of the labels by fits without their groups: (n,).

    With C the posterior covariance of all rows, scores and sites, N their noise and r their
    residuals, the fit without a set S of rows misses them by (I − C_SS N_S⁻¹)⁻¹ r_S (see `ridge`).
    Here S is a group's labels and every answer about one of its images. The same with the scores
    alone is taken off: the ridge knows it already, and better where it starts from priors.
    """
    n = len(residuals)
    shrink = 1 / (eigenvalues + penalty)
    across = noise**2 * ((asked.q * shrink) @ z.T + asked.level[:, None] / asked.scored)  # (a, n)
    system = covariance + np.diag(1 / sites.weight)
    lower = np.linalg.cholesky(system)
    seen = solve_triangular(lower, across, lower=True)  # (a, n)
    after = residuals - across.T @ sites.slope  # residuals with the answers in
    own = noise**2 * ((z * shrink * z).sum(1, dtype=np.float64) + 1 / n)

    names, at, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    about = _about(asked.answers, names)
    before = residuals / np.maximum(1 - own / noise**2, 1e-9)
    left = own - (seen**2).sum(0)
    missed = after / np.maximum(1 - left / noise**2, 1e-9)
    several = np.flatnonzero((sizes > 1) | np.isin(np.arange(len(names)), list(about)))
    inverse = solve_triangular(lower, covariance, lower=True) if about else covariance
    order, starts = np.argsort(at, kind="stable"), np.cumsum(sizes) - sizes
    for group in several.tolist():
        rows = order[starts[group] : starts[group] + sizes[group]]
        mine = about.get(group, NONE)
        among = noise**2 * ((z[rows] * shrink) @ z[rows].T + 1 / n).astype(np.float64)
        eye = np.eye(len(rows))
        before[rows] = np.linalg.solve(eye - among / noise**2, residuals[rows])
        some = inverse[:, mine]
        corner = covariance[np.ix_(mine, mine)] - some.T @ some
        side = across[np.ix_(mine, rows)] - some.T @ seen[:, rows]
        after_some = among - seen[:, rows].T @ seen[:, rows]
        whole = np.block([[after_some, side.T], [side, corner]])
        r = np.concatenate([after[rows], sites.slope[mine] / sites.weight[mine]])
        precision = np.concatenate([np.full(len(rows), 1 / noise**2), sites.weight[mine]])
        missed[rows] = np.linalg.solve(np.eye(len(r)) - whole * precision, r)[: len(rows)]
    return np.asarray(before - missed, np.float64)


def _about(answers: Answers, names: Array) -> dict[int, NDArray[np.intp]]:
    """Position in `names`, of groups -> the answers about an image of that group."""
    place = {name: number for number, name in enumerate(names.tolist())}
    group = [place.get(name, -1) for name in answers.groups.tolist()]
    found: dict[int, list[int]] = {}
    pairs = zip(answers.first.tolist(), answers.second.tolist(), strict=True)
    for number, (first, second) in enumerate(pairs):
        for one in {group[first], group[second] if second >= 0 else -1} - {-1}:
            found.setdefault(one, []).append(number)
    return {one: np.array(numbers, np.intp) for one, numbers in found.items()}


# ---------------------------------------------------------------- from positions


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
