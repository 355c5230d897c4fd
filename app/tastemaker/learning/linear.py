"""The linear head as a published fit: closed form, judged exactly out of group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.learning.checkpoints import Array
from tastemaker.learning.folds import Split, TrainingSet
from tastemaker.learning.heads import linear_head
from tastemaker.learning.recipes import Fit, Member, Progress, Recipe, silent
from tastemaker.learning.ridge import Ridge, fit_ridge


@dataclass(frozen=True)
class Constant:
    """The head that says the same of every image."""

    value: float

    def __call__(self, x: NDArray[Any]) -> Array:
        return np.full(len(x), self.value, np.float32)


def fit_linear(data: TrainingSet, split: Split, recipe: Recipe, progress: Progress = silent) -> Fit:
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


def out_of_fold_predictions(
    members: Sequence[Member], x: Array, fold: NDArray[np.integer]
) -> NDArray[np.float32]:
    """What each member says of the rows of x (n, D) that it never saw: (n,)."""
    said = np.empty(len(x), np.float32)
    for k, member in enumerate(members):
        said[fold == k] = member(x[fold == k])
    return said


def ridge_or_none(
    x: Array, y: Array, groups: NDArray[np.integer], unit: float | None = None
) -> Ridge | None:
    """A ridge on these labels; None where too little is left to fit one. With a `unit`, every
    feature is divided by that number instead of by its `half_scale`."""
    if len(np.unique(groups)) < 2 or y.min() == y.max():
        return None
    return fit_ridge(x, y, groups, scale=None if unit is None else np.full(x.shape[1], unit))
