"""The linear head: a closed-form ridge, refitted live after every few scores, and published.

One eigendecomposition serves every penalty. At a given penalty λ, ridge with a free intercept is a
linear smoother ŷ = Hy of its labels, with

    H = 11ᵀ/n + Z (E + λ)⁻¹ Zᵀ,

where the columns of Z are the centred features of the labelled rows, turned onto their principal
axes, and E holds the eigenvalues. For such a smoother, the prediction of a group g by a fit that
never saw g needs no refitting (block form of the leave-one-out identity; Cook & Weisberg,
*Residuals and Influence in Regression*, 1982):

    y_g − ŷ_g^(without g) = (I − H_gg)⁻¹ (y − ŷ)_g.

So the penalty is chosen by predictions that never saw the label nor anything of its group, and
every label is judged by them. They equal a real refit of weights and intercept without the group
at the same penalty, `scale` and edge. The scale is a choice of units made from the features of all
labelled rows, the edge from their number; no score enters either. The mean is immaterial, because
the intercept is free.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from tastemaker.errors import NotTrainable
from tastemaker.learning.answers import Answers
from tastemaker.learning.city96 import linear_head
from tastemaker.learning.folds import (
    Split,
    TrainingSet,
    answers_without_fold,
    out_of_fold_predictions,
)
from tastemaker.learning.half_precision import in_float32
from tastemaker.learning.left_out import Block, members_of, own_blocks, without_own_group
from tastemaker.learning.prior import (
    NOISE,
    NOISE_WEIGHT,
    Hypothesis,
    Link,
    Prior,
    Trust,
    hypotheses,
    log_evidence,
    posterior_probabilities,
)
from tastemaker.learning.recipes import Fit, Member, Progress, Recipe, ignore_progress
from tastemaker.learning.subspace import principal_axes
from tastemaker.learning.updating import Asked, ask, evidence_of, learn

Array = NDArray[Any]

# `half_scale` gives every data set rows of mean squared length 1: one grid fits all.
PENALTIES = tuple(np.geomspace(1e-3, 1e4, 40))

# A score of 0 or 1 has an infinite logit, so targets stay this far from both ends. Measured from
# 0.005 to 0.12: less makes the extremes rule the threshold, more makes them unreachable. Among few
# labels further still (see `edge_among`).
CLIP = 0.04

LEAST_ERROR = 0.025  # of scores in whole points, beside answers of another kind
PRIOR_LABELS = 2  # that the level of a prior counts as, before labels teach by themselves


@dataclass(frozen=True)
class Ridge:
    """A fitted linear head: score = link⁻¹(weights · (x − mean) / scale + bias).

    `out_of_group` (n,), in [0, 1], predicts every training label by a fit without its group;
    `noise` is the root mean square of label − out_of_group, in score units (0–1). `trust` says of
    each prior how far the labels bear it out; nothing while they are of one picture at most.
    `answer_weights` (a,) is how much each answer besides the scores counts, in labels.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    weights: NDArray[np.float32]
    bias: float
    penalty: float
    out_of_group: NDArray[np.float32]
    noise: float
    link: Link
    trust: tuple[Trust, ...] = ()
    answer_weights: tuple[float, ...] = ()

    def raw(self) -> tuple[NDArray[np.float32], float]:
        """The same head on features as the encoder has them: w (D,), b; link value = w·x + b."""
        weights = self.weights.astype(np.float64) / self.scale
        return weights.astype(np.float32), float(self.bias - weights @ self.mean)

    def predict(self, x: Array) -> NDArray[np.float32]:
        """Scores in [0, 1] of the rows x (N, D), read in chunks: x may be a float16 memory map."""
        weights, bias = self.raw()
        values = np.empty(len(x), np.float32)
        for start, rows in in_float32(x):
            values[start : start + len(rows)] = rows @ weights
        return from_link(values + np.float32(bias), self.link)


def fit_ridge(
    x: Array,
    y: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    link: Link = "logit",
    penalties: Iterable[float] = PENALTIES,
    scale: Array | None = None,
    span: Array | None = None,
    priors: Sequence[Prior] = (),
    answers: Answers | None = None,
) -> Ridge:
    """Fit scores y (n,) in [0, 1] on features x (n, D), n ≥ 2, D any.

    Rows with the same integer in `groups` (n,), such as crops of one picture, are left out
    together. The penalty is the one of `penalties` whose out-of-group scores have the smallest
    mean absolute error (the squared error chooses up to 4 % worse, never better than 1 %).
    `scale` (D,) divides the features, by default `half_scale(x)`. With `span` (D, k), orthonormal,
    scores move the weights in there alone, which takes less time where n and D are large. With
    `priors`, the fit starts from other heads, each trusted as far as the labels bear it out (see
    `prior`). With `answers`, it learns from those as well, and the penalty is the one that explains
    both (see `answers`); their groups are those of `groups`. Raises NotTrainable, with a sentence
    for the person, where the labels teach nothing.
    """
    x, target = np.asarray(x, np.float32), np.asarray(y, np.float64)
    members = members_of(groups, len(target))
    answers = answers if answers is not None and len(answers) else None
    _check(x, target, members, answers, priors)

    mean = x.mean(0, dtype=np.float64).astype(np.float32)
    scale = half_scale(x) if scale is None else np.asarray(scale, np.float32)
    rows = (x - mean) / scale
    strengths = np.sort(np.asarray(tuple(penalties), np.float64))
    edge = edge_among(len(target))
    linear = to_link(target, link, edge)
    z, eigenvalues, to_weights = principal_axes(rows, span)
    shrink = 1.0 / (eigenvalues[:, None] + strengths)
    axes = _Axes(z, eigenvalues, strengths, shrink, own_blocks(z, shrink, members))
    labels = _Direction.of(linear, axes)
    said = [_Direction.of(prior.values(x, link), axes) for prior in priors]
    held = hypotheses(len(priors))
    asked = None
    if answers is not None:
        known = rows if span is None else rows @ span @ span.T
        asked = ask(answers, to_link(answers.bound, link, edge), known, z, eigenvalues, mean, scale)
    lines = [prior.line(link) * scale for prior in priors]
    told = (axes, labels, linear, target, said, link, asked, lines)
    fits = [_fit_under(each, *told) for each in held]
    likely = posterior_probabilities(held, [fit.evidence for fit in fits])

    slopes, useful = np.zeros(len(priors)), np.zeros(len(priors))
    for each, fit, probability in zip(held, fits, likely, strict=True):
        if each.prior is not None:
            slopes[each.prior] += probability * fit.slope
            useful[each.prior] += probability

    weights = to_weights(np.stack([fit.coefficients for fit in fits], 1) @ likely)
    for prior, slope in zip(priors, slopes, strict=True):
        weights = weights + slope * prior.line(link) * scale
    left_out, level = np.stack([fit.left_out for fit in fits], 1) @ likely, float(linear.mean())
    likeliest = fits[int(likely.argmax())]
    answer_weights: tuple[float, ...] = ()
    if asked is not None:
        learned = learn(
            asked, z, eigenvalues,
            np.arange(len(x)) if groups is None else np.asarray(groups),
            to_weights=to_weights, weights=weights, level=level, penalty=likeliest.penalty,
            noise=likeliest.noise, residuals=linear - (rows @ weights + level),
        )  # fmt: skip
        weights, level, answer_weights = learned.weights, learned.level, learned.weight
        left_out = left_out + learned.left_out
    scores = from_link(left_out, link)
    return Ridge(
        mean=mean,
        scale=scale,
        weights=weights.astype(np.float32),
        bias=level,
        penalty=likeliest.penalty,
        out_of_group=scores.astype(np.float32),
        noise=float(np.sqrt(np.mean((scores - target) ** 2))),
        link=link,
        trust=tuple(map(Trust, useful.tolist(), slopes.tolist())),
        answer_weights=answer_weights,
    )


@dataclass(frozen=True)
class _Axes:
    """Labelled rows Z (n, axes) on their principal axes, and what every hypothesis needs of them:
    the penalties, the `shrink` (axes, penalties) that each means, and the `blocks` of the smoother
    that belong to the groups."""

    z: Array
    eigenvalues: Array
    strengths: Array
    shrink: Array
    blocks: list[Block]


@dataclass(frozen=True)
class _Direction:
    """Values v (n,) of the labelled rows, less their mean, and for each penalty Av, A being
    (I + ZZᵀ/λ)⁻¹: (n, penalties)."""

    centred: Array
    left: Array

    @classmethod
    def of(cls, values: Array, axes: _Axes) -> "_Direction":
        v, z = values - values.mean(), axes.z
        return cls(v, v[:, None] - z @ ((z.T @ v)[:, None] * axes.shrink).astype(z.dtype))


@dataclass(frozen=True)
class _FitUnder:
    """A fit under one hypothesis, at the penalty that leaves the smallest error. `left_out` (n,)
    are link values without the own group; `slope` is the prior's, whose line is no part of
    `coefficients`; `noise` is what scores differ by from the line, in units of the link."""

    coefficients: Array
    slope: float
    left_out: Array
    penalty: float
    evidence: float
    noise: float


def _fit_under(
    hypothesis: Hypothesis,
    axes: _Axes,
    labels: _Direction,
    linear: Array,
    target: Array,
    said: Sequence[_Direction],
    link: Link,
    asked: Asked | None,
    lines: Sequence[Array],
) -> _FitUnder:
    """The fit of labels, `linear` in units of the link and `target` as scores, under a hypothesis.

    The covariance of the labels in units of the noise is M = I + ZZᵀ/λ + κqqᵀ, q being what the
    prior says of them and κ the variance of its slope. With A = (I + ZZᵀ/λ)⁻¹, M⁻¹ is A less a
    matrix of rank one (Sherman & Morrison 1950), and so is the smoother I − M⁻¹.
    """
    strengths = axes.strengths
    rest, residuals = labels.centred, labels.left
    prior = None if hypothesis.prior is None else said[hypothesis.prior]
    if prior is not None:
        rest = rest - hypothesis.slope * prior.centred
        residuals = residuals - hypothesis.slope * prior.left
    determinant = np.log1p(axes.eigenvalues[:, None] / strengths).sum(0)
    slopes = np.full(len(strengths), hypothesis.slope)
    rank_one = None
    if prior is not None and hypothesis.sd:
        variance = (hypothesis.sd / NOISE[link]) ** 2
        spread = 1 + variance * (prior.centred @ prior.left)
        gained = variance / spread * (prior.centred @ residuals)
        residuals = residuals - prior.left * gained
        rank_one = prior.left * np.sqrt(variance / spread)
        slopes, determinant = slopes + gained, determinant + np.log(spread)

    left_out = linear[:, None] - without_own_group(residuals, axes.blocks, rank_one)
    errors = np.abs(from_link(left_out, link) - target[:, None]).mean(0)
    known, weight = NOISE_WEIGHT * NOISE[link] ** 2, NOISE_WEIGHT + len(linear) - 1
    noises = np.sqrt((known + rest @ residuals) / weight)
    if asked is not None:
        turned = axes.z.T @ rest.astype(axes.z.dtype)
        turned_q = 0.0 if prior is None else axes.z.T @ prior.centred.astype(axes.z.dtype)

        def values(at: int) -> Array:
            learned = turned - (slopes[at] - hypothesis.slope) * turned_q
            said_so: Array = asked.q @ (learned * axes.shrink[:, at])
            said_so += linear.mean() * asked.level
            of = hypothesis.prior
            return said_so if of is None else said_so + asked.u @ (slopes[at] * lines[of])

        usual = int(np.argmin(errors))
        found = evidence_of(asked, axes.eigenvalues, strengths, noises, values, usual)
        determinant = determinant - 2 * found
        # n labels of mean error e are as probable as e⁻ⁿ (Laplace's law, its width unknown).
        errors = np.maximum(errors, LEAST_ERROR) * np.exp((found.max() - found) / len(linear))
    # Of penalties that do equally well the strongest: with two labels all of them do.
    best = int(np.flatnonzero(errors <= errors.min() * (1 + 1e-3))[-1])
    less = 0.0 if prior is None else (slopes[best] - hypothesis.slope) * prior.centred
    return _FitUnder(
        coefficients=(axes.z.T @ (rest - less)) * axes.shrink[:, best],
        slope=float(slopes[best]),
        left_out=left_out[:, best],
        penalty=float(strengths[best]),
        evidence=log_evidence(len(linear), determinant, rest @ residuals, link),
        noise=float(noises[best]),
    )


def from_priors(
    priors: Sequence[Prior], x: Array, y: ArrayLike, link: Link, groups: ArrayLike | None = None
) -> Ridge:
    """The head while the labels y (n,) of rows x (n, D) teach nothing by themselves (none, one, or
    all the same). Of several pictures it trusts the priors as `fit_ridge` does; until then it is
    their mean, at the level of the labels if there are any: the priors' own level counts as much as
    `PRIOR_LABELS` labels."""
    target = np.asarray(y, np.float64)
    keys = np.arange(len(target)) if groups is None else np.asarray(groups)
    if len(np.unique(keys)) > 1:
        return fit_ridge(x, target, keys, link=link, priors=priors)
    weights = np.mean([prior.line(link) for prior in priors], axis=0)
    level = np.mean([prior.values(np.zeros_like(weights), link) for prior in priors])
    said = np.asarray(x, np.float32) @ weights + level
    missed = to_link(target, link) - said
    own = np.unique(keys, return_inverse=True)[1].ravel()
    others, left = (
        total.sum() - np.bincount(own, total)[own] for total in (missed, np.ones(len(target)))
    )
    without_own = from_link(said + others / (left + PRIOR_LABELS), link)
    level += missed.sum() / (len(target) + PRIOR_LABELS)
    return Ridge(
        mean=np.zeros(len(weights), np.float32),
        scale=np.ones(len(weights), np.float32),
        weights=weights.astype(np.float32),
        bias=float(level),
        penalty=PENALTIES[-1],
        out_of_group=without_own.astype(np.float32),
        noise=NOISE["identity"],
        link=link,
    )


def half_scale(x: Array) -> NDArray[np.float32]:
    """The default units (D,) of features x (n, D): the square root of each standard deviation,
    times one number that gives the centred rows a mean squared length of 1.

    Half-way between raw features, where a few loud ones drown the rest, and full standardisation,
    where with ten labels the almost constant ones explode. No worse than the better of the two
    on digits and stamps from 6 to 600 labels.
    """
    variance = np.asarray(x, np.float32).var(0, dtype=np.float64)
    variance += 1e-3 * variance.mean() or 1.0
    scale = variance**0.25
    return np.asarray(scale * np.sqrt(np.sum(variance / scale**2)), np.float32)


def edge_among(labels: int) -> float:
    """How far from 0 and 1 a score counts among that many labels: the rule of succession. One 0
    among five labels is no reason to expect more of them, and its logit would pull the level of
    all (docs/decisions/0053). From 23 labels on it is `CLIP`."""
    return max(CLIP, 1 / (labels + 2))


def to_link(scores: Array, link: Link, edge: float = CLIP) -> NDArray[np.float64]:
    """Scores in [0, 1] → the space in which the head is linear, held `edge` from both ends where
    that has none."""
    if link == "identity":
        return np.asarray(scores, np.float64)
    clipped = np.clip(scores, edge, 1 - edge)
    return np.asarray(np.log(clipped / (1 - clipped)), np.float64)


def from_link(values: Array, link: Link) -> Array:
    """The way back, into [0, 1]."""
    return np.clip(values, 0, 1) if link == "identity" else expit(values)


# --------------------------------------------------------------------------- published


@dataclass(frozen=True)
class Constant:
    """The head that gives every image the same score."""

    value: float

    def __call__(self, x: Array) -> NDArray[np.float32]:
        return np.full(len(x), self.value, np.float32)


def fit_linear(
    data: TrainingSet, split: Split, recipe: Recipe, progress: Progress = ignore_progress
) -> Fit:
    """Ridge on the logit of the scores; its out-of-fold scores are exact leave-one-group-out."""
    x, y, groups = data.x[split.train], data.y[split.train], split.groups[split.train]
    fold = split.fold[split.train]
    folds = int(fold.max()) + 1
    progress(0, folds + 1, "Fitting the linear head")
    ridge = fit_ridge(x, y, groups, priors=data.priors, answers=split.answers)
    members: list[Member] = []
    for k in range(folds):
        progress(k + 1, folds + 1, "Fitting the linear head")
        seen = fold != k
        answers = answers_without_fold(split, k)
        fitted = ridge_or_none(x[seen], y[seen], groups[seen], priors=data.priors, answers=answers)
        members.append(fitted.predict if fitted else Constant(float(y[seen].mean())))
    progress(folds + 1, folds + 1, "Fitted the linear head")
    tensors = linear_head(ridge.weights, ridge.bias, ridge.mean, ridge.scale, link=ridge.link)
    used = replace(recipe, name="ridge", folds=folds)
    by_members = out_of_fold_predictions(members, x, fold)
    return Fit(
        "ridge", used, tensors, ridge.out_of_group, by_members, tuple(members), [], ridge.trust
    )


def ridge_or_none(
    x: Array,
    y: Array,
    groups: NDArray[np.integer],
    unit: float | None = None,
    priors: Sequence[Prior] = (),
    answers: Answers | None = None,
) -> Ridge | None:
    """A ridge on these labels; None where too little is left to fit one. With a `unit`, every
    feature is divided by that number instead of by its `half_scale`."""
    if len(np.unique(groups)) < 2 or y.min() == y.max():
        return None
    scale = None if unit is None else np.full(x.shape[1], unit)
    return fit_ridge(x, y, groups, scale=scale, priors=priors, answers=answers)


# --------------------------------------------------------------------------- inside


def _check(
    x: Array, y: Array, members: list[Array], answers: Answers | None, priors: Sequence[Prior]
) -> None:
    if x.ndim != 2 or len(x) != len(y):
        raise ValueError(f"features {x.shape} do not match {len(y)} labels")
    if len(y) < 2:
        count = "1 scored image" if len(y) else "no scored images"
        raise NotTrainable(
            f"There is nothing to learn from yet: {count}, two are needed.",
            "Score a few more images.",
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise NotTrainable(
            "Some embeddings or scores are not numbers.", "Embed those images again."
        )
    if y.min() < 0 or y.max() > 1:
        raise ValueError("labels must lie in [0, 1]")
    if np.ptp(y) == 0 and answers is None and not priors:
        raise NotTrainable(
            "All scores are the same, so there is nothing to tell apart.",
            "Score images that you like more or less than these.",
        )
    if sum(len(same_size) for same_size in members) == 1:
        raise NotTrainable(
            "All scored images are versions of one picture.", "Score other pictures too."
        )
