"""A ridge updated by answers: its line, what it leaves out, and how probable the answers were.

The answers are normal values with a known mean and covariance once the scores are known, on the
principal axes of the scored rows (`ridge`), to which the sites of `answers` are added. A ridge with
its sites is again a linear smoother, so what a fit without some of them would say needs no
refitting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from tastemaker.learning.answers import (
    NONE,
    Answers,
    Array,
    Floats,
    Ratios,
    Sites,
    choose_ratios,
    find_sites,
    likelihood,
    spread_over,
)


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
    q[:, kept] = (u @ rows.T) @ (z[:, kept] / eigenvalues[kept]).astype(z.dtype)
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
    rows = spread_over(np.arange(len(asked.answers)))
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
    across = (asked.q * shrink).astype(z.dtype) @ z.T + asked.level[:, None] / asked.scored
    across = noise**2 * across.astype(np.float64)  # (a, n)
    system = covariance + np.diag(1 / sites.weight)
    lower = np.linalg.cholesky(system)
    seen = solve_triangular(lower, across, lower=True)  # (a, n)
    after = residuals - across.T @ sites.slope  # residuals with the answers in
    own = noise**2 * (np.einsum("ij,j,ij->i", z, shrink.astype(z.dtype), z) + 1 / n)

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
