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
at the same penalty and `scale`. The scale is a choice of units made from the features of all
labelled rows; no score enters it. The mean is immaterial, because the intercept is free.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cholesky, eigh, solve_triangular
from scipy.special import expit

from tastemaker.errors import NotTrainable
from tastemaker.learning.city96 import linear_head
from tastemaker.learning.folds import Split, TrainingSet, out_of_fold_predictions
from tastemaker.learning.recipes import Fit, Member, Progress, Recipe, ignore_progress

Link = Literal["logit", "identity"]
Array = NDArray[Any]

# `half_scale` gives every data set rows of mean squared length 1: one grid fits all.
PENALTIES = tuple(np.geomspace(1e-3, 1e4, 40))

# A score of 0 or 1 has an infinite logit, so targets stay this far from both ends. Measured from
# 0.005 to 0.12: less makes the extremes rule the threshold, more makes them unreachable.
CLIP = 0.04

ROWS_AT_ONCE = 4096  # 4096 × 1280 float32 = 20 MB: large enough for BLAS, little beside a library


@dataclass(frozen=True)
class Ridge:
    """A fitted linear head: score = link⁻¹(weights · (x − mean) / scale + bias).

    `out_of_group` (n,), in [0, 1], predicts every training label by a fit without its group;
    `noise` is the root mean square of label − out_of_group, in score units (0–1).
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    weights: NDArray[np.float32]
    bias: float
    penalty: float
    out_of_group: NDArray[np.float32]
    noise: float
    link: Link

    def raw(self) -> tuple[NDArray[np.float32], float]:
        """The same head on features as the encoder has them: w (D,), b; link value = w·x + b."""
        weights = self.weights.astype(np.float64) / self.scale
        return weights.astype(np.float32), float(self.bias - weights @ self.mean)

    def predict(self, x: Array) -> NDArray[np.float32]:
        """Scores in [0, 1] of the rows x (N, D), read in chunks: x may be a float16 memory map."""
        weights, bias = self.raw()
        values = np.empty(len(x), np.float32)
        for start in range(0, len(x), ROWS_AT_ONCE):
            rows = np.asarray(x[start : start + ROWS_AT_ONCE], np.float32)
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
) -> Ridge:
    """Fit scores y (n,) in [0, 1] on features x (n, D), n ≥ 2, D any.

    Rows with the same integer in `groups` (n,), such as crops of one picture, are left out
    together. The penalty is the one of `penalties` whose out-of-group scores have the smallest
    mean absolute error (the squared error chooses up to 4 % worse, never better than 1 %).
    `scale` (D,) divides the features, by default `half_scale(x)`.
    Raises NotTrainable, with a sentence for the person, where the labels teach nothing.
    """
    x, target = np.asarray(x, np.float32), np.asarray(y, np.float64)
    members = _members(groups, len(target))
    _check(x, target, members)

    mean = x.mean(0, dtype=np.float64).astype(np.float32)
    scale = half_scale(x) if scale is None else np.asarray(scale, np.float32)
    rows = (x - mean) / scale
    z, eigenvalues, to_weights = _principal_axes(rows)

    linear = to_link(target, link)
    level = linear.mean()
    projected = z.T @ (linear - level)
    strengths = np.sort(np.asarray(tuple(penalties), np.float64))
    shrink = 1.0 / (eigenvalues[:, None] + strengths)  # (axes, penalties)
    coefficients = projected[:, None] * shrink

    residuals = (linear - level)[:, None] - z @ coefficients.astype(z.dtype)
    left_out = linear[:, None] - _without_own_group(residuals, z, shrink, members)
    scores = from_link(left_out, link)
    errors = np.abs(scores - target[:, None]).mean(0)
    # Of penalties that do equally well the strongest: with two labels all of them do.
    best = int(np.flatnonzero(errors <= errors.min() * (1 + 1e-3))[-1])

    return Ridge(
        mean=mean,
        scale=scale,
        weights=to_weights(coefficients[:, best]).astype(np.float32),
        bias=float(level),
        penalty=float(strengths[best]),
        out_of_group=scores[:, best].astype(np.float32),
        noise=float(np.sqrt(np.mean((scores[:, best] - target) ** 2))),
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


def to_link(scores: Array, link: Link) -> NDArray[np.float64]:
    """Scores in [0, 1] → the space in which the head is linear."""
    if link == "identity":
        return np.asarray(scores, np.float64)
    clipped = np.clip(scores, CLIP, 1 - CLIP)
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
    ridge = fit_ridge(x, y, groups)
    members: list[Member] = []
    for k in range(folds):
        progress(k + 1, folds + 1, "Fitting the linear head")
        seen = fold != k
        fitted = ridge_or_none(x[seen], y[seen], groups[seen])
        members.append(fitted.predict if fitted else Constant(float(y[seen].mean())))
    progress(folds + 1, folds + 1, "Fitted the linear head")
    tensors = linear_head(ridge.weights, ridge.bias, ridge.mean, ridge.scale, link=ridge.link)
    used = replace(recipe, name="ridge", folds=folds)
    by_members = out_of_fold_predictions(members, x, fold)
    return Fit("ridge", used, tensors, ridge.out_of_group, by_members, tuple(members), [])


def ridge_or_none(
    x: Array, y: Array, groups: NDArray[np.integer], unit: float | None = None
) -> Ridge | None:
    """A ridge on these labels; None where too little is left to fit one. With a `unit`, every
    feature is divided by that number instead of by its `half_scale`."""
    if len(np.unique(groups)) < 2 or y.min() == y.max():
        return None
    return fit_ridge(x, y, groups, scale=None if unit is None else np.full(x.shape[1], unit))


# --------------------------------------------------------------------------- uncertainty


@dataclass(frozen=True)
class Projection:
    """A library seen from its leading principal axes, computed once per embedding matrix.

    `features` (N, k) float32 are the half-scaled rows on these axes; `rest` (N,) is the squared
    length they leave out, and `rest_axes` the number of dimensions it is spread over. Fewer rows
    than dimensions have fewer axes: a small library is projected in milliseconds.
    """

    features: NDArray[np.float32]
    rest: NDArray[np.float32]
    rest_axes: int


def project(x: Array, k: int = 256, *, sample: int = 20_000, seed: int = 0) -> Projection:
    """The top-k principal axes of x (N, D), found on at most `sample` random rows."""
    n, features = x.shape
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(n)[:sample])
    drawn = np.asarray(x[chosen], np.float32)
    mean, scale = drawn.mean(0), half_scale(drawn)
    drawn = (drawn - mean) / scale
    _, strengths, to_weights = _principal_axes(drawn)
    k = min(k, len(strengths))
    axes = to_weights(np.eye(len(strengths), dtype=np.float32)[:, len(strengths) - k :])

    turned, rest = np.empty((n, k), np.float32), np.empty(n, np.float32)
    for start in range(0, n, ROWS_AT_ONCE):
        rows = (np.asarray(x[start : start + ROWS_AT_ONCE], np.float32) - mean) / scale
        part = slice(start, start + len(rows))
        np.matmul(rows, axes, out=turned[part])
        rest[part] = _squares(rows) - _squares(turned[part])
    return Projection(turned, np.maximum(rest, 0), features - k)


def posterior_sd(
    projection: Projection, labelled: Array, ridge: Ridge, scores: Array
) -> NDArray[np.float32]:
    """How unsure `ridge` is of every row of the library: (N,), in score units (0–1), all > 0.

    `labelled` (n,) are the library rows it was fitted on, `scores` (N,) what it predicts. Ridge is
    the mean of a Gaussian posterior of variance σ²(1 + h(x)), h(x) = 1/n + xᵀ(XᵀX + λ)⁻¹x for
    centred x (Rasmussen & Williams 2006, section 2.1). Here h is exact on the k projected axes;
    on the axes left out, XᵀX is taken as spread evenly, without which doubtful strangers would
    look familiar. σ² grows with f(1 − f), the largest variance of a label in [0, 1] of mean f: near
    the ends errors are small. It is scaled so that sd² is noise² on average over the unlabelled
    rows, as it is over the out-of-group predictions: the labels' own noise is included.
    """
    labelled, n = np.asarray(labelled, np.intp), len(labelled)
    z = projection.features[labelled].astype(np.float64)
    centre = z.mean(0)
    precision = (z - centre).T @ (z - centre)
    precision[np.diag_indices_from(precision)] += ridge.penalty
    # ‖L⁻¹x‖² with precision = LLᵀ: the quadratic form for the price of one matrix product.
    whiten = solve_triangular(cholesky(precision, lower=True), np.eye(len(precision)), lower=True)
    whiten = np.ascontiguousarray(whiten.T, np.float32)
    shift = centre.astype(np.float32) @ whiten

    spread = projection.rest[labelled].sum() / max(projection.rest_axes, 1)
    variance = 1 + 1 / n + projection.rest / np.float32(ridge.penalty + spread)
    for start in range(0, len(variance), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        variance[part] += _squares(projection.features[part] @ whiten - shift)

    inside = np.clip(scores, 0.1, 0.9).astype(np.float32)
    variance *= inside * (1 - inside)
    unlabelled = np.ones(len(variance), bool)
    unlabelled[labelled] = False
    usual = np.mean(variance[unlabelled] if unlabelled.any() else variance, dtype=np.float64)
    return np.sqrt(variance / usual).astype(np.float32) * np.float32(max(ridge.noise, 1e-3))


# --------------------------------------------------------------------------- inside


def _check(x: Array, y: Array, members: list[Array]) -> None:
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
    if np.ptp(y) == 0:
        raise NotTrainable(
            "All scores are the same, so there is nothing to tell apart.",
            "Score images that you like more or less than these.",
        )
    if sum(len(same_size) for same_size in members) == 1:
        raise NotTrainable(
            "All scored images are versions of one picture.", "Score other pictures too."
        )


def _members(groups: ArrayLike | None, n: int) -> list[Array]:
    """Row indices of every group, groups of equal size stacked: a list of (groups, size).

    Without groups every row is one by itself.
    """
    keys = np.arange(n) if groups is None else np.asarray(groups)
    order = np.argsort(keys, kind="stable")
    starts, sizes = np.unique(keys[order], return_index=True, return_counts=True)[1:]
    return [order[starts[sizes == size][:, None] + np.arange(size)] for size in np.unique(sizes)]


def _principal_axes(rows: Array) -> tuple[Array, Array, Callable[[Array], Array]]:
    """Turn centred rows (n, D) onto their principal axes, by the smaller of the two Gram matrices.

    Returns Z (n, r), its squared column lengths (r,), ascending, and the map from coefficients on
    the axes (r,) or (r, k) to weights (D,) or (D, k). float32: its rounding moves a prediction by
    less than 0.001.
    """
    n, features = rows.shape
    if features <= n:
        eigenvalues, axes = eigh(rows.T @ rows, driver="evd", check_finite=False)
        return rows @ axes, np.maximum(eigenvalues, 0).astype(np.float64), lambda c: axes @ c
    eigenvalues, u = eigh(rows @ rows.T, driver="evd", check_finite=False)
    # Centring leaves one eigenvalue that is 0 but for rounding, which must not be divided by.
    kept = eigenvalues > 1e-6 * eigenvalues[-1]
    lengths = np.sqrt(eigenvalues[kept])
    u = u[:, kept]
    return u * lengths, lengths.astype(np.float64) ** 2, lambda c: rows.T @ (u / lengths @ c)


def _without_own_group(residuals: Array, z: Array, shrink: Array, members: list[Array]) -> Array:
    """(I − H_gg)⁻¹ residuals_g of every group g, for every penalty: (n, penalties)."""
    out = np.empty_like(residuals)
    shrink = shrink.astype(z.dtype)
    for same_size in members:
        size = same_size.shape[1]
        first, second = np.triu_indices(size)
        # H has an entry per pair of rows, so all groups and penalties share one matrix product.
        at_once = max(1, ROWS_AT_ONCE // len(first))
        for start in range(0, len(same_size), at_once):
            rows = same_size[start : start + at_once]  # (groups, size)
            pairs = z[rows[:, first]] * z[rows[:, second]]  # (groups, pairs, axes)
            entries = 1 / len(z) + (pairs @ shrink).astype(np.float64)
            if size == 1:
                out[rows[:, 0]] = residuals[rows[:, 0]] / (1 - entries[:, 0])
                continue
            system = np.empty((len(rows), shrink.shape[1], size, size))
            system[:, :, first, second] = -entries.swapaxes(1, 2)
            system[:, :, second, first] = -entries.swapaxes(1, 2)
            system[:, :, np.arange(size), np.arange(size)] += 1
            right = residuals[rows].swapaxes(1, 2)[..., None]
            out[rows] = np.linalg.solve(system, right)[..., 0].swapaxes(1, 2)
    return out


def _squares(rows: Array) -> Array:
    """Squared length of every row."""
    return np.asarray(np.einsum("ij,ij->i", rows, rows))
