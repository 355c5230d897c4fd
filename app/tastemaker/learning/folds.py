"""Who trains and who judges: near-duplicates united, the hold-out withheld, the rest in folds.

An image judged by a head that saw its twin, its crop or its neighbour in a burst would flatter the
head. So whatever resembles each other stays together: in one fold, on one side of the hold-out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tastemaker.errors import Invalid, NotTrainable
from tastemaker.learning.answers import Answers
from tastemaker.learning.city96 import Array
from tastemaker.learning.prior import Prior
from tastemaker.learning.recipes import Member
from tastemaker.learning.trainable import why_not

Rows = NDArray[np.bool_]

FEW = 150  # labels below which there are ten folds
NEAR = 0.13  # near-duplicate: closer than this share of the median nearest-neighbour distance


@dataclass(frozen=True)
class TrainingSet:
    """Labelled images as the numeric code wants them, all in the same order.

    image_ids (n,); x (n, D) float32 embeddings; y (n,) scores in 0-1; groups (n,) integers, equal
    for images of one source; holdout (n,) True where the label only ever measures; random (n,) True
    where neither a model nor the picture itself decided that the image was scored, None where that
    is so of all; priors are heads that a linear head starts from; answers are what was said besides
    scores, their groups numbered as the labels'.
    """

    image_ids: NDArray[Any]
    x: Array
    y: Array
    groups: NDArray[np.integer]
    holdout: Rows
    random: Rows | None = None
    priors: tuple[Prior, ...] = ()
    answers: Answers | None = None

    @property
    def drawn(self) -> Rows:
        """(n,) the random sample."""
        return np.ones(len(self.y), bool) if self.random is None else self.random

    def __post_init__(self) -> None:
        n = len(self.y)
        lengths = (
            len(self.image_ids), len(self.x), len(self.groups), len(self.holdout), len(self.drawn),
        )  # fmt: skip
        if any(length != n for length in lengths) or (n and self.x.ndim != 2):
            raise Invalid("The parts of a training set differ in length.")


@dataclass(frozen=True)
class Split:
    """Who trains: every row is exactly one of `train`, `holdout`, `aside` (masks of shape (n,)).

    `aside` would train, but is a near-duplicate of a hold-out image. `groups` are the united
    groups; `fold` is the fold of a training row, and -1 elsewhere. `answers` are those that may
    train.
    """

    train: Rows
    holdout: Rows
    aside: Rows
    groups: NDArray[np.intp]
    fold: NDArray[np.intp]
    answers: Answers | None = None


def split_rows(
    x: Array,
    y: NDArray[Any],
    groups: NDArray[np.integer],
    holdout: Rows,
    *,
    folds: int | None,
    seed: int,
    refuse: Callable[[NDArray[Any], Rows], NotTrainable | None] = why_not,
) -> Split:
    """Unite near-duplicates, withhold the hold-out and its twins, deal the rest into folds.

    x (n, D) embeddings; y (n,) labels; groups (n,) equal for images of one source; holdout (n,)
    True where the label only ever measures. There are `folds` folds, or by None as many as
    `folds_for` so many labels; fewer where there are fewer groups. Raises NotTrainable, also for
    what `refuse` says of the labels and who trains.
    """
    groups = merge_near_duplicates(x, groups)
    holdout = np.asarray(holdout, bool)
    touched = np.isin(groups, groups[holdout])
    train = ~touched
    aside = touched & ~holdout

    labels = y[train]
    if reason := refuse(y, train):
        raise reason
    apart = len(np.unique(groups[train]))
    if apart < 2:
        raise NotTrainable(
            "All scored images are versions of one picture.", "Score other pictures too."
        )
    fold = np.full(len(groups), -1)
    wanted = folds_for(len(labels)) if folds is None else folds
    fold[train] = deal_folds(groups[train], min(wanted, apart), seed)
    return Split(train, holdout, aside, groups, fold)


def folds_for(labels: int) -> int:
    """How many folds n labels are dealt into. A member without a fifth of 30 labels is a poor image
    of the head that has them all; without a tenth it is a better one, and few labels train fast."""
    return 10 if labels < FEW else 5


def merge_near_duplicates(x: Array, groups: NDArray[np.integer]) -> NDArray[np.intp]:
    """Groups (n,) as 0, 1, …, after uniting those that hold near-duplicates of each other.

    Two rows of x (n, D) are near-duplicates when their distance is below 0.13 × the median
    distance from a row to its nearest neighbour (the rule of cleanlab). That neighbour is looked
    for outside the row's group and beyond its obvious twins, or else a library in which every
    picture is there twice would have a median of almost nothing. Memory is bounded: 256 rows are
    compared at a time; the median comes from 2,048 rows when n is larger.
    """
    labels: NDArray[np.intp] = np.unique(groups, return_inverse=True)[1].ravel()
    n = len(x)
    if n < 2:
        return labels
    x = np.ascontiguousarray(x, np.float32)
    same = np.unique(x.view(np.dtype((np.void, x.strides[0]))).ravel(), return_inverse=True)[1]
    labels = _united(labels, *_pairs_with_first(same.ravel()))

    x = x - x.mean(axis=0)  # distances stay, and rounding shrinks
    squares = np.einsum("ij,ij->i", x, x)
    some = np.arange(n) if n <= 2048 else np.random.default_rng(0).choice(n, 2048, replace=False)
    nearest = []
    for rows in np.array_split(some, -(-len(some) // 256)):
        distances = squares[rows, None] + squares - 2 * (x[rows] @ x.T)
        distances[labels[rows, None] == labels] = np.inf
        nearest.append(_beyond_twins(np.partition(distances, min(4, n - 1), axis=1)[:, :5]))
    known = np.concatenate(nearest)
    known = known[np.isfinite(known)]
    if not len(known):  # one group only
        return labels
    reach = NEAR**2 * np.median(known)

    for start in range(0, n, 256):
        stop = min(start + 256, n)
        distances = squares[start:stop, None] + squares[start:] - 2 * (x[start:stop] @ x[start:].T)
        i, j = np.nonzero(distances < reach)
        labels = _united(labels, start + i, start + j)
    return labels


def _beyond_twins(squared: Array) -> Array:
    """Of each row's five smallest squared distances, the first that is no twin's: one that is at
    least 0.13 × the fifth distance. Infinite where the row has no neighbour."""
    squared = np.maximum(squared, 0)
    fifth = np.where(np.isfinite(squared), squared, 0).max(axis=1, keepdims=True)
    nearest: Array = np.where(squared >= NEAR**2 * fifth, squared, np.inf).min(axis=1)
    return nearest


def _pairs_with_first(keys: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Each row beside the first row of the same key."""
    first = np.unique(keys, return_index=True)[1]
    return np.arange(len(keys)), first[keys]


def _united(labels: NDArray[np.intp], i: NDArray[np.intp], j: NDArray[np.intp]) -> NDArray[np.intp]:
    """Labels after uniting the groups of the rows i with those of the rows j."""
    apart = labels[i] != labels[j]
    if not apart.any():
        return labels
    count = int(labels.max()) + 1
    edges = (np.ones(int(apart.sum()), np.int8), (labels[i][apart], labels[j][apart]))
    component = connected_components(coo_array(edges, shape=(count, count)), directed=False)[1]
    return np.asarray(component[labels], np.intp)


def deal_folds(groups: NDArray[np.integer], folds: int, seed: int) -> NDArray[np.intp]:
    """A fold (n,) for every row; whole groups, largest first, each to the emptiest fold."""
    names, at, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    load = [0] * folds
    fold = np.empty(len(names), np.intp)
    for group in order:
        emptiest = load.index(min(load))
        fold[group] = emptiest
        load[emptiest] += int(sizes[group])
    dealt: NDArray[np.intp] = fold[at.ravel()]
    return dealt


def fold_of_group(data: TrainingSet, split: Split) -> dict[int, int]:
    """The caller's group number -> the fold that was left out for it, of groups that train: of a
    near-duplicate that only answers speak of, the fold of its twin."""
    trained = split.train
    folds = split.fold[trained].tolist()
    known = dict(zip(data.groups[trained].tolist(), folds, strict=True))
    if data.answers is None or split.answers is None:
        return known
    united = dict(zip(split.groups[trained].tolist(), folds, strict=True))
    count, labelled = int(split.fold.max()) + 1, int(split.groups.max())
    pairs = zip(data.answers.groups.tolist(), split.answers.groups.tolist(), strict=True)
    spoken_of = {
        mine: group % count if group > labelled else united[group]
        for mine, group in pairs
        if group > labelled or group in united
    }
    return spoken_of | known


def groups_with_answers(data: TrainingSet) -> tuple[NDArray[np.integer], Answers | None]:
    """The groups (n,) of the labels, and the answers under theirs, after uniting near-duplicates
    among the images of both; of the labels alone, `split_rows` does that."""
    if data.answers is None or not len(data.answers):
        return data.groups, None
    united = merge_near_duplicates(
        np.concatenate([data.x, data.answers.x]),
        np.concatenate([data.groups, data.answers.groups]),
    )
    n = len(data.y)
    return united[:n], replace(data.answers, groups=united[n:])


def answers_that_train(
    answers: Answers, groups: NDArray[np.integer], split: Split
) -> Answers | None:
    """The answers about no image of the hold-out, nor a near-duplicate of one, under the groups of
    the split; images without a label have further numbers. None where none is left."""
    numbers = dict(zip(groups.tolist(), split.groups.tolist(), strict=True))
    free = int(split.groups.max()) + 1
    own = np.array([numbers.get(group, free + group) for group in answers.groups.tolist()], np.intp)
    renamed = replace(answers, groups=own)
    kept = renamed.only(~renamed.touching(split.groups[split.holdout]))
    return kept if len(kept) else None


def answers_without_fold(split: Split, k: int) -> Answers | None:
    """The answers that a member may train on which must not see fold k."""
    if split.answers is None:
        return None
    groups, count = split.answers.groups, int(split.fold.max()) + 1
    unlabelled = groups[(groups > split.groups.max()) & (groups % count == k)]
    left_out = np.concatenate([split.groups[split.fold == k], unlabelled])
    return split.answers.only(~split.answers.touching(left_out))


def out_of_fold_predictions(
    members: Sequence[Member], x: Array, fold: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Each row of x (n, D) scored by the member that never saw it: (n,). `fold` (n,) numbers the
    member of each row."""
    scores = np.empty(len(x), np.float32)
    for k, member in enumerate(members):
        scores[fold == k] = member(x[fold == k])
    return scores
