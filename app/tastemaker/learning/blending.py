"""Blend: two unlike heads as one, each with a share of the logit.

A line and a network err on different images, so that between them they usually err less than the
better one alone; and where one is much the better, the shares say so. They are fitted on what the
fold members say of folds they never saw, and the sum is again one head, exactly (`side_by_side`).

With thirty labels the share that errs least is a lottery: it was 0 or 0.9 on the same digits, by
the draw. So every share has a vote that falls with its error, and the mean of the votes counts:
exponential weights, whose rate falls with √n (Cesa-Bianchi & Lugosi, *Prediction, Learning, and
Games*, 2006). Few labels leave it near a half; many, at the best share.

The members see fewer labels than the published head, and the network misses them more than the
line; on most sets it is the better of the two. So its share has credit, as if there were a few more
labels that it alone had right: much with thirty, next to nothing with a thousand. How sharp the
votes are, how much credit there is and how small a share may be was chosen by trial
(docs/decisions/0018, 0019).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from tastemaker.learning import metrics
from tastemaker.learning.checkpoints import Array
from tastemaker.learning.folds import Split, TrainingSet
from tastemaker.learning.heads import fold_platt, side_by_side
from tastemaker.learning.recipes import Fit, Member

SHARES = np.linspace(0, 1, 41)
SHARPNESS = 40.0  # over √n: a vote falls to 1/e where n errors add up to √n / 4 points more
CREDIT = 6.0  # labels, as if the network had no error on so many more
LEAST = 0.15  # a smaller share costs more than it brings
EDGE = 1e-6  # scores this near to 0 or 1 have no useful logit


@dataclass(frozen=True)
class Blended:
    """A member of each kind, with `share` of the logit for the network's."""

    network: Member
    line: Member
    share: float

    def __call__(self, x: NDArray[Any]) -> Array:
        return blended(self.network(x), self.line(x), self.share)


def blended(network: ArrayLike, line: ArrayLike, share: float) -> Array:
    """sigmoid(share · logit(network) + (1 − share) · logit(line)) of scores (n,) in 0-1."""
    return expit(share * _logit(network) + (1 - share) * _logit(line)).astype(np.float32)


def share_of_network(network: ArrayLike, line: ArrayLike, y: ArrayLike) -> float:
    """The network's share of the logit, in hundredths, by the errors of all shares on scores and
    labels (n,) in 0-1: 0, 1, or between LEAST and 1 − LEAST."""
    shares = SHARES[:, None]
    said = expit(shares * _logit(network) + (1 - shares) * _logit(line))
    errors = np.abs(said - np.asarray(y, np.float64)).sum(axis=1)
    n = said.shape[1]
    errors -= CREDIT * errors.min() / n * SHARES
    votes = np.exp(-SHARPNESS / np.sqrt(n) * (errors - errors.min()))
    share = round(float(votes @ SHARES / votes.sum()), 2)
    return 0.0 if share < LEAST else 1.0 if share > 1 - LEAST else share


def blend(data: TrainingSet, split: Split, network: Fit, line: Fit) -> tuple[Fit, dict[str, Any]]:
    """Both as one fit, and what was found: the share of the network, and how the blend compares
    with either alone on labels that none of them had seen.

    `network` and `line` are fits on the same split. The share of a fold's member is fitted on the
    other folds. Where one of the two gets nothing, the other is published as it is.
    """
    y, groups = data.y[split.train], split.groups[split.train]
    fold, said, lined = split.fold[split.train], network.by_members, line.by_members
    share = share_of_network(said, lined, y)
    members, out_of_fold = [], np.empty(len(y), np.float32)
    for k, (wide, straight) in enumerate(zip(network.members, line.members, strict=True)):
        mine = fold == k
        own = share_of_network(said[~mine], lined[~mine], y[~mine])
        members.append(Blended(wide, straight, own))
        out_of_fold[mine] = blended(said[mine], lined[mine], own)
    error = np.abs(out_of_fold - y)
    found = {
        "share": share,
        "blend_minus_city96": metrics.compare(error, np.abs(said - y), groups).as_dict(),
        "blend_minus_ridge": metrics.compare(error, np.abs(lined - y), groups).as_dict(),
    }
    if share in (0, 1):
        return (network if share else line), found
    tensors = side_by_side(
        fold_platt(network.tensors, share, 0), fold_platt(line.tensors, 1 - share, 0)
    )
    used = replace(network.recipe, name="auto")
    both = replace(
        network, kind="blend", recipe=used, tensors=tensors, oof=out_of_fold,
        by_members=out_of_fold, members=tuple(members),
    )  # fmt: skip
    return both, found


def _logit(scores: ArrayLike) -> NDArray[np.float64]:
    return logit(np.clip(np.asarray(scores, np.float64), EDGE, 1 - EDGE))
