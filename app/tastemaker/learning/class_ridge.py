"""The live classifier: a ridge on which class each label is, refitted after every few labels.

It is the smoother of `ridge` with a column of targets for each class, 1 for the images that have it
and 0 for the others, so one eigendecomposition serves all classes and penalties, and what a fit
without an image's own group would give it needs no refitting. Least squares of such targets give
about the probability of each class, drawn in towards its share of the labels where little is known.
`sharpness` turns that into probabilities: softmax over classes, a sigmoid for each tag. Penalty and
sharpness are those whose out-of-group predictions err least.

A class whose labels weigh w multiplies its odds by w, after all of that: where probabilities are
right, that is what a loss in which its labels count w times tends to (for tags as for classes).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, log_softmax, softmax

from tastemaker.errors import NotTrainable
from tastemaker.learning.half_precision import in_float32
from tastemaker.learning.left_out import members_of, own_blocks, without_own_group
from tastemaker.learning.ridge import half_scale
from tastemaker.learning.subspace import principal_axes
from tastemaker.learning.trainable import learnable, why_no_classes

Array = NDArray[Any]
Truths = NDArray[np.bool_]

# Of rows of mean squared length 1 (`half_scale`). One beyond a tenth of the labels leaves little
# but their shares of the classes; among ten labels it would be chosen by chance.
PENALTIES = np.geomspace(1e-3, 1e3, 19)
SHARPNESS = np.geomspace(0.5, 32, 25)


@dataclass(frozen=True)
class ClassRidge:
    """K lines over features: values = weights (K, D) · (x − mean) / scale + bias (K,).

    `kept` tells which of the classes that were asked for these are: those that the labels can
    teach. `log_odds` (K,) is by how much their weights raise them. `out_of_group` (n, K) are the
    probabilities of every training label by a fit without its group.
    """

    kept: NDArray[np.bool_]
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    sharpness: float
    log_odds: NDArray[np.float32]
    penalty: float
    several: bool
    out_of_group: NDArray[np.float32]

    def predict(self, x: Array) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(m, K) probabilities of the rows x (N, D), some at a time, with the number of the first:
        x may be a float16 memory map."""
        turned = self.weights.astype(np.float64) / self.scale
        bias = (self.bias - turned @ self.mean).astype(np.float32)
        weights = np.ascontiguousarray(turned.T, np.float32)
        for start, rows in in_float32(x):
            logits = _logits(rows @ weights + bias, self.sharpness, self.several)
            yield start, _read(logits + self.log_odds, self.several)


def fit_class_ridge(
    x: Array,
    truth: Truths,
    groups: Array,
    *,
    several: bool,
    label_weights: Array | None = None,
    scale: Array | None = None,
    span: Array | None = None,
) -> ClassRidge:
    """Fit which of the classes n images have, truth (n, classes), on features x (n, D).

    Rows with the same integer in `groups` (n,) are left out together. With `several` the classes
    are tags. `label_weights` (classes,) is how much the labels of each count, 1 each without.
    `scale` and `span` are those of `fit_ridge`. Raises NotTrainable, with a sentence for the
    person, where the labels teach nothing."""
    if reason := why_no_classes(truth, np.ones(len(truth), bool), several=several):
        raise reason
    if len(np.unique(groups)) < 2:
        raise NotTrainable(
            "All labelled images are versions of one picture.", "Label other pictures too."
        )
    kept = learnable(truth, several=several)
    x, target = np.asarray(x, np.float32), truth[:, kept].astype(np.float64)
    mean = x.mean(0, dtype=np.float64).astype(np.float32)
    scale = half_scale(x) if scale is None else np.asarray(scale, np.float32)
    z, eigenvalues, to_weights = principal_axes((x - mean) / scale, span)
    strengths = PENALTIES[: np.searchsorted(PENALTIES, 1.001 * max(1.0, len(x) / 10))]
    shrink = 1.0 / (eigenvalues[:, None] + strengths)
    blocks = own_blocks(z, shrink, members_of(groups, len(target)))
    level = target.mean(0)
    turned = z.T @ (target - level).astype(z.dtype)  # (axes, K)
    left_out = np.empty((len(strengths), *target.shape), np.float32)
    for k in range(target.shape[1]):
        fitted = z @ (turned[:, k, None] * shrink).astype(z.dtype)
        residuals = (target[:, k] - level[k])[:, None] - fitted
        left_out[:, :, k] = (target[:, k, None] - without_own_group(residuals, blocks)).T
    errors = np.square(left_out - target).mean((1, 2))
    # Of penalties that do equally well the strongest: with two labels all of them do.
    best = int(np.flatnonzero(errors <= errors.min() * (1 + 1e-3))[-1])
    losses = [_loss(left_out[best], target, sharpness, several) for sharpness in SHARPNESS]
    sharpness = float(SHARPNESS[int(np.argmin(losses))])
    lines = to_weights((turned * shrink[:, best, None]).astype(z.dtype))
    counts = np.ones(len(kept)) if label_weights is None else label_weights
    log_odds = np.log(counts[kept]).astype(np.float32)
    return ClassRidge(
        kept=kept,
        mean=mean,
        scale=scale,
        weights=np.asarray(lines.T, np.float32),
        bias=level.astype(np.float32),
        sharpness=sharpness,
        log_odds=log_odds,
        penalty=float(strengths[best]),
        several=several,
        out_of_group=_read(_logits(left_out[best], sharpness, several) + log_odds, several),
    )


def _logits(values: Array, sharpness: float, several: bool) -> Array:
    return np.asarray(2 * sharpness * (values - 0.5) if several else sharpness * values)


def _read(logits: Array, several: bool) -> NDArray[np.float32]:
    return np.asarray(expit(logits) if several else softmax(logits, axis=1), np.float32)


def _loss(values: Array, target: Array, sharpness: float, several: bool) -> float:
    """Mean cross-entropy of (n, K) values as probabilities."""
    logits = _logits(values, sharpness, several)
    if several:
        logs = np.where(target > 0, log_expit(logits), log_expit(-logits))
    else:
        logs = log_softmax(logits, axis=1) * target
    return -float(logs.sum(1).mean())
