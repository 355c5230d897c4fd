"""Training a classifier: labels in, a head of the city96 layout and honest numbers out.

The steps are those of `training`: near-duplicates united, the hold-out withheld, folds dealt, one
head per fold and one on everything, and what is measured is the file as it is exported. The head is
linear: logistic regression on the logits, softmax over classes that exclude each other, or a
sigmoid for each tag. A class counts in the loss as its weight says. The penalty is the one of a
grid with the least out-of-fold loss.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

from tastemaker.errors import NotTrainable
from tastemaker.learning.city96 import Tensors, classifier_head
from tastemaker.learning.class_metrics import (
    ClassMetrics,
    ClassRecord,
    Floats,
    Truths,
    measure,
    said,
)
from tastemaker.learning.folds import Rows, Split, TrainingSet, fold_of_group, split_rows
from tastemaker.learning.heads import Head
from tastemaker.learning.prior import Trust
from tastemaker.learning.recipes import Curve, Progress, Recipe, ignore_progress
from tastemaker.learning.ridge import half_scale
from tastemaker.learning.trainable import learnable, why_no_classes
from tastemaker.learning.training import Choice

# Penalties on the weights of rows of mean squared length 1 (`half_scale`), strongest first: each
# begins where the one before it ended, until the out-of-fold loss has risen twice.
PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
BIAS_PENALTY = 1e-3  # so that a class without a label in a fold has a finite one
STEPS = 60


@dataclass(frozen=True)
class ClassData:
    """What is to be told apart. `rows` are the labelled images (their y plays no part); truth
    (n, K): which of the K classes each has; `numbers`, `names` and `weights` (K,) of the classes.
    With `several` an image may have several of them, or none."""

    rows: TrainingSet
    truth: Truths
    numbers: tuple[int, ...]
    names: tuple[str, ...]
    weights: tuple[float, ...]
    several: bool = False

    def only(self, kept: NDArray[np.bool_]) -> ClassData:
        """With some of the classes (K,)."""
        at = np.flatnonzero(kept)
        return replace(
            self,
            truth=self.truth[:, at],
            numbers=tuple(self.numbers[k] for k in at),
            names=tuple(self.names[k] for k in at),
            weights=tuple(self.weights[k] for k in at),
        )


@dataclass(frozen=True)
class LinearClasses:
    """K lines over features: logits = weights (K, D) · (x − mean) / scale + bias (K,)."""

    weights: Floats
    bias: Floats
    mean: Floats
    scale: Floats
    several: bool

    def __call__(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """(N, D) → (N, K) probabilities."""
        logits = ((x - self.mean) / self.scale) @ self.weights.T + self.bias
        read = expit(logits) if self.several else softmax(logits, axis=1)
        return np.asarray(read, np.float32)


@dataclass(frozen=True)
class TrainedClasses:
    """A classifier ready to publish, and what is known about it; see `training.Trained`.

    `data` has the classes it tells apart, of which those in `left_out` are none: they had no label
    to learn from. `oof` (n, K) is out-of-fold for a trained label and NaN elsewhere, `final` (n, K)
    by the exported tensors.
    """

    data: ClassData
    tensors: Tensors
    split: Split
    oof: Floats
    final: Floats
    fold_of_group: dict[int, int]
    members: tuple[LinearClasses, ...]
    recipe: Recipe
    record: ClassRecord = field(default_factory=ClassRecord)
    left_out: tuple[str, ...] = ()
    kind: str = "logistic"
    loss_curve: Curve = field(default_factory=list)
    trust: tuple[Trust, ...] = ()

    @property
    def choice(self) -> Choice:
        return Choice(self.recipe.name, "the one kind of head that classes have")

    @property
    def honest(self) -> Floats:
        """(n, K) for every label, by a head that never saw it nor a near-duplicate."""
        return np.where(self.split.train[:, None], self.oof, self.final)

    def predict(self, x: NDArray[Any], groups: NDArray[np.integer]) -> tuple[Floats, Floats]:
        """(N, K) probabilities of N other images by the exported tensors, and (N, K) out-of-fold
        ones, NaN where the image's group did not train."""
        fold = np.array([self.fold_of_group.get(group, -1) for group in groups.tolist()], np.intp)
        out_of_fold = np.full((len(x), len(self.data.numbers)), np.nan, np.float32)
        for k, member in enumerate(self.members):
            if (fold == k).any():
                out_of_fold[fold == k] = member(x[fold == k])
        return self._head(x), out_of_fold

    @functools.cached_property
    def _head(self) -> Head:
        return Head(self.tensors, several=self.data.several)


# ---------------------------------------------------------------- the story


def train(
    data: ClassData, recipe: Recipe, *, progress: Progress = ignore_progress
) -> TrainedClasses:
    """Train a classifier. `progress` is as in `training.train`. Raises NotTrainable with a sentence
    for the person."""
    rows = data.rows
    if reason := why_no_classes(data.truth, ~rows.holdout, several=data.several):
        raise reason
    if not np.isfinite(rows.x).all():
        raise NotTrainable(
            "The embeddings of some labelled images hold values that are not numbers.",
            "Embed these images again.",
        )
    progress(0, 1, "Looking for near-duplicates")
    split = split_rows(
        rows.x, data.truth, rows.groups, rows.holdout, folds=recipe.folds, seed=recipe.seed,
        refuse=functools.partial(why_no_classes, several=data.several),
    )  # fmt: skip
    known = learnable(data.truth[split.train], several=data.several)
    left_out = tuple(name for name, kept in zip(data.names, known, strict=True) if not kept)
    data = data.only(known)

    x, truth, fold = rows.x[split.train], data.truth[split.train], split.fold[split.train]
    labelled = np.asarray(truth.any(axis=1))
    if data.several:
        labelled = np.ones(len(truth), bool)
    final, members, oof, penalty = _fit(
        x[labelled], truth[labelled], fold[labelled], np.array(data.weights), data.several,
        progress,
    )  # fmt: skip
    everywhere = np.full((len(rows.x), len(data.numbers)), np.nan, np.float32)
    trained_rows = np.flatnonzero(split.train)[labelled]
    everywhere[trained_rows] = oof
    half = 0.5 if data.several else 1.0  # an output of its own is read as sigmoid(2z)
    tensors, rank = classifier_head(
        half * final.weights, half * final.bias, final.mean, final.scale, centred=not data.several
    )
    trained = TrainedClasses(
        data=data,
        tensors=tensors,
        split=split,
        oof=everywhere,
        final=Head(tensors, several=data.several)(rows.x),
        fold_of_group=fold_of_group(rows, split),
        members=members,
        recipe=replace(recipe, folds=len(members)),
        left_out=left_out,
    )
    loss = _loss_per_row(np.log(np.clip(oof, 1e-9, 1)), oof, truth[labelled], data.several)
    return replace(trained, record=_record(trained, penalty, float(loss.mean()), rank))


# ---------------------------------------------------------------- the fit


def _fit(
    x: NDArray[np.float32], truth: Truths, fold: NDArray[np.intp], weights: Floats, several: bool,
    progress: Progress,
) -> tuple[LinearClasses, tuple[LinearClasses, ...], Floats, float]:  # fmt: skip
    """The head on all labels, one per fold without it, its (n, K) out-of-fold probabilities, and
    the penalty that was chosen."""
    folds = int(fold.max()) + 1
    mean = x.mean(axis=0, dtype=np.float64)
    scale = half_scale(x).astype(np.float64)
    z, back = _in_few_dimensions((x - mean) / scale)
    target = truth.astype(np.float64)
    counts = _weight_of_rows(target, weights, several)
    seen = [fold != k for k in range(folds)]
    lines = [_start(z, target[some], counts[some], several) for some in seen]
    tried: list[tuple[float, list[Floats], Floats]] = []  # loss, a line for each fold, (n, K)
    for done, penalty in enumerate(PENALTIES):
        progress(done, len(PENALTIES) + 1, "Fitting the linear head")
        lines = [
            _minimum(start, z[some], target[some], counts[some], several, penalty)
            for start, some in zip(lines, seen, strict=True)
        ]
        p = np.empty(truth.shape)
        for own, some in zip(lines, seen, strict=True):
            p[~some] = _read(z[~some] @ own[:-1] + own[-1], several)
        loss = _loss_per_row(np.log(np.clip(p, 1e-9, 1)), p, truth, several)
        tried.append((float(loss.mean()), lines, p))
        if len(tried) > 2 and tried[-3][0] < tried[-2][0] < tried[-1][0]:
            break  # it has passed its least
    best = min(range(len(tried)), key=lambda at: tried[at][0])
    progress(len(PENALTIES), len(PENALTIES) + 1, "Fitting the linear head")
    final = _start(z, target, counts, several)
    for penalty in PENALTIES[: best + 1]:
        final = _minimum(final, z, target, counts, several, penalty)

    def lines_of(fitted: Floats) -> LinearClasses:
        return LinearClasses((back @ fitted[:-1]).T, fitted[-1], mean, scale, several)

    members = tuple(lines_of(own) for own in tried[best][1])
    progress(len(PENALTIES) + 1, len(PENALTIES) + 1, "Fitted the linear head")
    return lines_of(final), members, tried[best][2].astype(np.float32), PENALTIES[best]


def _in_few_dimensions(x: Floats) -> tuple[Floats, Floats]:
    """(n, r) the rows of x (n, D) in r ≤ min(n, D) orthogonal directions, and (D, r) the way back.
    A penalised line lies within the rows it was fitted to, so nothing is lost."""
    n, features = x.shape
    if n >= features:
        return x, np.eye(features)
    values, vectors = np.linalg.eigh(x @ x.T)
    kept = values > values[-1] * 1e-10
    lengths = np.sqrt(values[kept])
    z = vectors[:, kept] * lengths
    return z, x.T @ (vectors[:, kept] / lengths)


def _weight_of_rows(target: Floats, weights: Floats, several: bool) -> Floats:
    """(n, K) how much each label counts, 1 on average: a row by its class, of tags each where the
    image has it."""
    if several:
        return np.asarray(np.where(target > 0, weights, 1.0))
    row = target @ weights
    return np.asarray(np.repeat((row / row.mean())[:, None], target.shape[1], axis=1))


def _start(z: Floats, target: Floats, counts: Floats, several: bool) -> Floats:
    """(r + 1, K) lines that give every image the shares of the classes; the last row is the
    bias."""
    lines = np.zeros((z.shape[1] + 1, target.shape[1]))
    share = np.clip((target * counts).sum(axis=0) / counts.sum(axis=0), 1e-3, 1 - 1e-3)
    lines[-1] = np.log(share / (1 - share)) if several else np.log(share)
    return lines


def _minimum(
    start: Floats, z: Floats, target: Floats, counts: Floats, several: bool, penalty: float
) -> Floats:
    def loss(flat: Floats) -> tuple[float, Floats]:
        lines = flat.reshape(start.shape)
        logits = z @ lines[:-1] + lines[-1]
        if several:
            read = expit(logits)
            value = float((counts * (np.logaddexp(0, logits) - target * logits)).sum())
        else:
            logs = log_softmax(logits, axis=1)
            read = np.exp(logs)
            value = -float((counts * target * logs).sum())
        slope = counts * (read - target)
        gradient = np.vstack([z.T @ slope, slope.sum(axis=0)])
        gradient[:-1] += penalty * lines[:-1]
        gradient[-1] += BIAS_PENALTY * lines[-1]
        value += penalty / 2 * float((lines[:-1] ** 2).sum())
        value += BIAS_PENALTY / 2 * float((lines[-1] ** 2).sum())
        return value, gradient.ravel()

    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    return np.asarray(found.x.reshape(start.shape))


def _read(logits: Floats, several: bool) -> Floats:
    return np.asarray(expit(logits) if several else softmax(logits, axis=1))


def _loss_per_row(logs: Floats, p: Floats, truth: Truths, several: bool) -> Floats:
    """(n,) cross-entropy of probabilities p (n, K), whose logarithms are given."""
    if not several:
        return np.asarray(-(logs * truth).sum(axis=1))
    without = np.log(np.clip(1 - p, 1e-9, 1))
    return np.asarray(-np.where(truth, logs, without).sum(axis=1))


# ---------------------------------------------------------------- honest numbers


def _record(trained: TrainedClasses, penalty: float, log_loss: float, rank: int) -> ClassRecord:
    data, split = trained.data, trained.split

    def measured(some: Rows) -> ClassMetrics:
        p = trained.honest[some]
        known = np.isfinite(p).all(axis=1)
        return measure(
            data.numbers, data.truth[some][known], p[known], said(p[known], several=data.several),
            split.groups[some][known], several=data.several,
        )  # fmt: skip

    return ClassRecord(
        labelling="tags" if data.several else "classes",
        numbers=data.numbers,
        names=data.names,
        left_out=trained.left_out,
        labels=tuple(data.truth.sum(axis=0).tolist()),
        penalty=penalty,
        log_loss=log_loss,
        rank=rank,
        holdout=measured(split.holdout),
        random_sample=measured(data.rows.drawn),
        out_of_fold=measured(split.train),
    )
