"""Labels that may be wrong: those that similar images disagree with, and near-twins that were
scored far apart.

`label_issues` follows the regression method of cleanlab (Zhou et al. 2023, *Detecting errors in
numerical data*): a label's residual against a prediction that never saw it, in units of how
uncertain that prediction is. With r the residual and u its uncertainty, a = |r|/u, and
quality = exp(−a / median a): about 0.37 for the usual label, towards 0 for one that nothing
explains.

Three things are different, each because it finds more injected errors (bench/doubtful.py):

- u needs no bootstrap. For a ridge it has a closed form, σ √(1 + h/(1 − h)) with the leverage h;
- the slips themselves distort the fit that is to find them, so every label is first drawn in to
  within one robust standard deviation of its prediction (Huber's pseudo-values), twice;
- where the images nearest to one are all scored higher than predicted, so should it be. A linear
  head cannot learn that; the median residual of the nearest images can. It counts by as much as
  makes the residuals of all labels smallest, which is not at all where it only adds noise.

`class_issues` is confident learning (Northcutt, Jiang & Chuang 2021): a label is an issue where a
prediction that never saw it is at least as sure of another class as it is, on average, of the
images that are labelled so. They are ranked by the probability of the label. Ranks that take the
classes' averages off, that draw slips in first or that ask the nearest images find fewer injected
errors on photographs, stamps and digits (bench/classes.py has the figures of this order).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.learning.distances import distance_blocks
from tastemaker.learning.ridge import Ridge, fit_ridge

Array = NDArray[Any]

FEWEST = 20  # labels, below which a residual means nothing
# Quality of a residual of two standard deviations. With a tenth of slips among 1,000 labels this
# lists about 45 to 65 of the 100, and as many honest ones: the worst stand first.
DOUBTFUL = float(np.exp(-3.0))
NEIGHBOURS = 5
SHARES = np.linspace(0, 1, 11)  # of the neighbours' residual that may be believed
ROUNDS = 2
FEWEST_OF_CLASS = 5  # labels, below which the average of a class is none
ALIKE = 1e-6  # probabilities that differ by rounding

FAR = 0.3  # of the scale: twice what chance does to two honest scores of one picture (σ = 1 point)
# How near is a near-twin, in median distances from a labelled image to its nearest neighbour. What
# comes from one source need only be as near as neighbours usually are: a photograph and its
# blurred copy are relatives, and rightly scored apart.
TWIN, RELATIVE = 0.5, 1.0
ROWS_AT_ONCE = 1024


# --- labels that similar images disagree with ----------------------------------------------------


@dataclass(frozen=True)
class LabelIssues:
    """Per label (n,), in [0, 1]: the label that is `expected` by the others, and the `quality` of
    the one it has."""

    expected: NDArray[np.float64]
    quality: NDArray[np.float64]

    def worst(self, limit: int) -> NDArray[np.intp]:
        """Positions of the doubtful labels, the most doubtful first."""
        order = np.argsort(self.quality, kind="stable")[:limit]
        return order[self.quality[order] <= DOUBTFUL]


def label_issues(features: Array, labels: Array, groups: Array, ridge: Ridge) -> LabelIssues:
    """How far each label is from what the others predict. `features` (n, k) are the half-scaled
    rows on their principal axes (`posterior.Projection`), `labels` (n,) in [0, 1], `groups` (n,)
    equal for images that are left out together; `ridge` was fitted on the same labels. With fewer
    than 20 labels none is doubtful, nor where all are the same or of one source. 0.3 s for 3,000
    labels."""
    x = np.ascontiguousarray(features, np.float32)
    y = np.asarray(labels, np.float64)
    if len(y) < FEWEST or np.ptp(y) == 0 or len(np.unique(groups)) < 2:
        return LabelIssues(ridge.out_of_group.astype(np.float64), np.ones(len(y)))
    expected = _robust_predictions(x, y, groups, ridge)
    residual = y - expected
    nearby = np.median(residual[_nearest_of_others(x, groups)], axis=1)
    believed = SHARES[np.argmin(np.abs(residual - SHARES[:, None] * nearby).mean(1))]
    expected = np.clip(expected + believed * nearby, 0, 1)

    leverage = _leverage(x, ridge.penalty)
    deviation = np.abs(y - expected) / np.sqrt(1 + leverage / (1 - leverage))
    usual = max(float(np.median(deviation)), 1e-3)
    return LabelIssues(expected, np.exp(-deviation / usual))


def _robust_predictions(x: Array, y: Array, groups: Array, ridge: Ridge) -> Array:
    """Predictions (n,) without the own group, by fits to labels that are drawn in."""
    left_out = ridge.out_of_group.astype(np.float64)
    units = np.ones(x.shape[1], np.float32)
    for _ in range(ROUNDS):
        residual = y - left_out
        reach = max(1.4826 * float(np.median(np.abs(residual))), 0.01)
        drawn_in = np.clip(left_out + np.clip(residual, -reach, reach), 0, 1)
        if np.ptp(drawn_in) == 0:
            break
        fit = fit_ridge(
            x, drawn_in, groups, link="identity", penalties=(ridge.penalty,), scale=units
        )
        left_out = fit.out_of_group.astype(np.float64)
    return left_out


def _nearest_of_others(x: Array, groups: Array) -> NDArray[np.intp]:
    """(n, m) positions of the nearest rows of other groups; where a row has fewer, its own stands
    for the missing ones."""
    count = min(NEIGHBOURS, len(x) - 1)
    nearest = np.empty((len(x), count), np.intp)
    for rows, block in distance_blocks(x, x, ROWS_AT_ONCE):
        block[groups[rows, None] == groups] = np.inf
        best = np.argpartition(block, count - 1, axis=1)[:, :count]
        missing = np.isinf(np.take_along_axis(block, best, 1))
        own = np.arange(rows.start, rows.stop)[:, None]
        nearest[rows] = np.where(missing, own, best)
    return nearest


def _leverage(x: Array, penalty: float) -> Array:
    """h (n,) of a ridge with a free intercept: how much each label decides its own prediction."""
    centred = (x - x.mean(0)).astype(np.float64)
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += penalty
    h = 1 / len(x) + np.einsum("ij,ij->i", centred, np.linalg.solve(gram, centred.T).T)
    clipped: Array = np.clip(h, 0, 0.99)
    return clipped


# --- classes that similar images disagree with ----------------------------------------------------


@dataclass(frozen=True)
class ClassIssues:
    """Per label (n,): which class the others make one expect instead (−1: none, and the label is no
    issue), or of tags which of them is doubtful; and the `quality`, the probability of the label
    as it is."""

    suspect: NDArray[np.intp]
    quality: NDArray[np.float64]

    def worst(self, limit: int) -> NDArray[np.intp]:
        """Positions of the doubtful labels, the most doubtful first."""
        order = np.argsort(self.quality, kind="stable")
        return order[self.suspect[order] >= 0][:limit]


def class_issues(probabilities: Array, truth: NDArray[np.bool_], *, several: bool) -> ClassIssues:
    """Which of n labels, truth (n, K), predictions that never saw them, probabilities (n, K), speak
    against. With `several` the classes are tags, each a question of its own. With fewer than 20
    labels none is doubtful, and no class of fewer than 5 speaks against another."""
    p, n = np.asarray(probabilities, np.float64), len(truth)
    if several:
        return _tag_issues(p, truth)
    own = np.where(truth, p, 0).sum(axis=1)
    likeliest = p.argmax(axis=1)
    sure = p.max(axis=1) >= _usual(p, truth)[likeliest] - ALIKE
    doubtful = sure & ~truth[np.arange(n), likeliest] & (n >= FEWEST)
    return ClassIssues(np.where(doubtful, likeliest, -1), own)


def _tag_issues(p: Array, truth: NDArray[np.bool_]) -> ClassIssues:
    usual, usual_without = _usual(p, truth), _usual(1 - p, ~truth)
    against = np.where(truth, 1 - p, p)
    sure = against >= np.where(truth, usual_without, usual) - ALIKE
    doubtful = sure & (against > 0.5) & (len(p) >= FEWEST)
    worst = np.where(doubtful, against, -1).argmax(axis=1)
    rows = np.arange(len(p))
    suspect = np.where(doubtful[rows, worst], worst, -1)
    return ClassIssues(suspect, 1 - np.where(suspect >= 0, against[rows, worst], 0))


def _usual(p: Array, truth: NDArray[np.bool_]) -> Array:
    """(K,) how likely each class is, on average, for the images that are labelled so; beyond any
    probability for a class of too few."""
    count = truth.sum(axis=0)
    mean = np.where(truth, p, 0).sum(axis=0) / np.maximum(count, 1)
    return np.where(count >= FEWEST_OF_CLASS, mean, 2.0)


# --- near-twins that were scored far apart -------------------------------------------------------


@dataclass(frozen=True)
class Contradiction:
    """Positions of two labels, and how far apart they are (0–1; two classes are 1 apart)."""

    first: int
    second: int
    gap: float


def contradictions(
    features: Array, labels: Array, groups: Array, *, limit: int = 100
) -> list[Contradiction]:
    """At most `limit` pairs among the labelled images, the largest gap first, nearest first among
    equals. `features` (n, k), `labels` (n,) in [0, 1] or whole numbers of classes, `groups` (n,)
    equal for one source.
    An image is in one pair only, or one slip would fill the list. Memory is bounded; the work is
    n²k."""
    points = np.ascontiguousarray(features, np.float32)
    labels, groups = np.asarray(labels, np.float64), np.asarray(groups)
    n = len(points)
    if n < 2:
        return []
    squares, positions = np.square(points).sum(1), np.arange(n)
    firsts: list[Array] = []
    seconds: list[Array] = []
    distances: list[Array] = []
    nearest = np.empty(n, np.float32)
    usual = np.inf  # of the rows so far: a first guess that only keeps the lists short
    for rows, block in distance_blocks(points, points, ROWS_AT_ONCE):
        block += squares[rows, None]
        np.fill_diagonal(block[:, rows], np.inf)
        nearest[rows] = np.sqrt(np.maximum(block.min(1), 0))
        usual = float(np.median(nearest[: rows.stop]))
        near = block <= max(2 * RELATIVE * usual, 1e-6) ** 2
        near &= np.abs(labels[rows, None] - labels) >= FAR - 1e-9
        near &= positions > positions[rows, None]
        i, j = np.nonzero(near)
        firsts.append(rows.start + i)
        seconds.append(j)
        distances.append(np.sqrt(np.maximum(block[i, j], 0)))
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    distance = np.concatenate(distances) / max(usual, 1e-12)
    kept = distance <= np.where(groups[first] == groups[second], RELATIVE, TWIN)
    first, second, distance = first[kept], second[kept], distance[kept]
    gap = np.minimum(np.abs(labels[first] - labels[second]), 1)
    pairs: list[Contradiction] = []
    taken: set[int] = set()
    for at in np.lexsort((distance, -gap)):
        pair = int(first[at]), int(second[at])
        if len(pairs) < limit and taken.isdisjoint(pair):
            pairs.append(Contradiction(*pair, float(gap[at])))
            taken.update(pair)
    return pairs
