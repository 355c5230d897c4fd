"""How good a classifier is, class by class, in numbers that carry their n and their interval.

Labels and predictions are (n, K) truths: of classes one in each row is true, of tags any number.
Every interval is a bootstrap over groups (see `metrics.estimate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.learning.version_metrics import (
    ENOUGH_DRAWN,
    ENOUGH_FOR_ONE_RATE,
    ENOUGH_HELD_OUT,
    NOTHING,
    Estimate,
    MeasuredOn,
    SliceSize,
    Value,
    VersusVersion,
)
from tastemaker.learning.weighted import Floats, Statistic, ratio

Truths = NDArray[np.bool_]

FEW_CLASSES = 20  # with more, their intervals come from fewer resamples
RESAMPLES, OF_MANY = 400, 200  # there are four figures for each class


class ClassFigures(Value):
    """One class on a set of labels. The n of `precision` is how many images were predicted to be
    of it, that of the others how many are labelled so. `average_precision` ranks all images by the
    probability of the class."""

    number: int
    precision: Estimate = NOTHING
    recall: Estimate = NOTHING
    f1: Estimate = NOTHING
    average_precision: Estimate = NOTHING

    @property
    def findings(self) -> ClassFigures:
        """What may stand as a finding: rates over ten images or more."""
        withheld = {
            name: Estimate(value=None, low=None, high=None, n=known.n)
            for name in ("precision", "recall", "f1", "average_precision")
            if (known := getattr(self, name)).n < ENOUGH_FOR_ONE_RATE
        }
        return self.model_copy(update=withheld)


class ClassMetrics(Value):
    """Everything measured on one set of `n` labels in `groups` groups. `accuracy` is the share that
    is right (of tags: all of the image's tags), `always_commonest` that of giving every image what
    is commonest. `confusion[i][j]` counts images of class i that were predicted to be of class j;
    of tags there is none."""

    n: int = 0
    groups: int = 0
    accuracy: Estimate = NOTHING
    macro_f1: Estimate = NOTHING
    always_commonest: float | None = None
    classes: tuple[ClassFigures, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


class ClassShare(Value):
    """One class among some images: how many are taken for it, and its rates on the labelled ones.
    The n of `precision` is how many of these are predicted to be of it, that of the others how many
    are labelled so."""

    number: int
    name: str
    images: int
    precision: Estimate = NOTHING
    recall: Estimate = NOTHING
    f1: Estimate = NOTHING

    def finding(self, name: str) -> Estimate:
        """A rate as it may stand: over ten images or more."""
        known: Estimate = getattr(self, name)
        return known.finding

    def as_json(self) -> dict[str, Any]:
        return {
            "number": self.number, "name": self.name, "images": self.images,
            **self.precision.flat("precision"), **self.recall.flat("recall"),
            **self.f1.flat("f1", n=False),
        }  # fmt: skip


class ClassSlice(SliceSize):
    """What a classifier makes of a slice: `accuracy` is the share of its `labelled` images that is
    right (of tags: all of the image's tags)."""

    labelled: int
    accuracy: Estimate
    classes: tuple[ClassShare, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return super().as_json() | {
            **self.accuracy.flat("accuracy"), "classes": [row.as_json() for row in self.classes],
        }  # fmt: skip


class ClassRecord(Value):
    """What a version that was trained here to tell classes apart records: its classes in the order
    of its outputs, each with the number it has in labels and the name of that time; what was
    measured on what; and `left_out`, the classes that had no label to learn from. Empty of every
    other version. `labels` counts all labels of each class that the version saw. `penalty` and
    `log_loss`, out-of-fold, are of the head. `versus` is the difference of the shares that are
    wrong."""

    labelling: str = ""
    numbers: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    predicted: tuple[int, ...] = ()
    penalty: float | None = None
    log_loss: float | None = None
    rank: int | None = None
    holdout: ClassMetrics = ClassMetrics()
    random_sample: ClassMetrics = ClassMetrics()
    out_of_fold: ClassMetrics = ClassMetrics()
    versus: VersusVersion | None = None
    slices: tuple[ClassSlice, ...] = ()

    @property
    def measured_on(self) -> MeasuredOn | None:
        """What the numbers in front rest on (see `VersionMetrics.measured_on`)."""
        if self.holdout.n >= ENOUGH_HELD_OUT:
            return "holdout"
        if self.random_sample.n >= ENOUGH_DRAWN:
            return "random_sample"
        return "out_of_fold" if self.out_of_fold.n else None

    @property
    def measured(self) -> ClassMetrics:
        """The numbers in front; empty without any."""
        on = self.measured_on
        return getattr(self, on) if on else ClassMetrics()

    def name(self, number: int) -> str:
        """The name that a class had when the version was trained."""
        return dict(zip(self.numbers, self.names, strict=True)).get(number, f"class {number}")


def said(probabilities: Floats, *, several: bool) -> Truths:
    """(n, K) what probabilities (n, K) amount to: the likeliest class, or every tag from ½ on."""
    if several:
        return np.asarray(probabilities >= 0.5)
    truth = np.zeros(probabilities.shape, bool)
    truth[np.arange(len(truth)), probabilities.argmax(axis=1)] = True
    return truth


def margins(probabilities: Floats, *, several: bool) -> Floats:
    """(n,) how far from undecided: by how much the likeliest class leads, or of tags the least
    certain one, 0 to 1."""
    if several:
        return np.asarray(np.abs(2 * probabilities - 1).min(axis=1))
    top = np.sort(probabilities, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0])


def measure(
    numbers: tuple[int, ...],
    truth: Truths,
    probabilities: Floats,
    predicted: Truths,
    groups: NDArray[np.integer],
    *,
    several: bool,
) -> ClassMetrics:
    """Everything on n labels: truth (n, K), probabilities (n, K), predicted (n, K), groups (n,).
    With `several`, an image may have several of the classes, or none."""
    from tastemaker.learning import metrics  # the tables need the records alone

    def estimate(statistic: Statistic, among: NDArray[np.bool_], resamples: int) -> Estimate:
        """Over the groups; where no resample differs, as of a share of all of them that have it."""
        if not among.any():
            return NOTHING
        found = metrics.estimate(statistic, groups, int(among.sum()), resamples=resamples)
        if found.value not in (0.0, 1.0) or found.low is None:
            return found
        low, high = metrics.exact(found.value, len(np.unique(groups[among])))
        return found.model_copy(update={"low": low, "high": high})

    n, count = truth.shape
    if not n:
        return ClassMetrics()
    resamples = RESAMPLES if count <= FEW_CLASSES else OF_MANY
    right = (truth == predicted).all(axis=1).astype(np.float64)
    t, p = truth.astype(np.float64), predicted.astype(np.float64)
    both = t * p

    def f1_of(k: int) -> Statistic:
        return lambda w: ratio(2 * (w @ both[:, k]), w @ (t[:, k] + p[:, k]))

    def macro(w: Floats) -> Floats:
        known = (w @ t) > 0
        each = np.where(known, ratio(2 * (w @ both), w @ (t + p)), 0.0)
        return ratio(each.sum(-1), known.sum(-1))

    def rate(k: int, among: Floats) -> Statistic:
        return lambda w: ratio(w @ both[:, k], w @ among[:, k])

    def precisely(k: int) -> Statistic:
        order = np.argsort(-probabilities[:, k], kind="stable")
        return lambda w: average_precision(truth[order, k], w[..., order])

    figures = []
    for k, number in enumerate(numbers):
        labelled, told = truth[:, k], predicted[:, k]
        figures.append(
            ClassFigures(
                number=number,
                precision=estimate(rate(k, p), told, resamples),
                recall=estimate(rate(k, t), labelled, resamples),
                f1=estimate(f1_of(k), labelled, resamples),
                average_precision=estimate(precisely(k), labelled, OF_MANY),
            )
        )
    everything = np.ones(n, bool)
    return ClassMetrics(
        n=n,
        groups=len(np.unique(groups)),
        accuracy=estimate(lambda w: w @ right / w.sum(-1), everything, resamples),
        macro_f1=estimate(macro, everything, resamples),
        always_commonest=always_commonest(truth, several=several),
        classes=tuple(figures),
        confusion=() if several else _confusion(truth, predicted),
    )


def shares_of(
    named: Sequence[tuple[int, str]],
    truth: Truths,
    predicted: Truths,
    groups: NDArray[np.integer],
    images: NDArray[np.integer],
) -> tuple[Estimate, tuple[ClassShare, ...]]:
    """The accuracy on n labels, and the rates of the K classes `named` (number and name): truth and
    predicted (n, K), groups (n,); images (K,): how many images are taken for each, labelled or
    not. Classes that neither a label nor a prediction names are left out."""
    from tastemaker.learning.ratios import ratios

    t, p = truth.astype(np.float64), predicted.astype(np.float64)
    n, count = truth.shape
    right = (truth == predicted).all(axis=1).astype(np.float64)[:, None]
    both, labelled, told = t * p, truth.sum(axis=0), predicted.sum(axis=0)
    found = ratios(
        np.hstack([right, both, both, 2 * both]),
        np.hstack([np.ones((n, 1)), p, t, t + p]),
        np.concatenate([[n], told, labelled, labelled]),
        groups,
    )
    rows = tuple(
        ClassShare(
            number=number, name=name, images=int(images[k]),
            precision=found[1 + k], recall=found[1 + count + k], f1=found[1 + 2 * count + k],
        )
        for k, (number, name) in enumerate(named)
        if images[k] or labelled[k]
    )  # fmt: skip
    return found[0], rows


def average_precision(truth: Truths, weights: Floats) -> Floats:
    """The mean of the precision at each true image of a ranking (n,), best first, image i counting
    weights_i times: Σ (recall step × precision), as in information retrieval. Of many weights at
    once: (..., n) -> (...), NaN where no image is true."""
    true = weights * truth
    hits, seen = np.cumsum(true, -1), np.cumsum(weights, -1)
    precision = np.nan_to_num(ratio(hits, seen))
    return ratio((true * precision).sum(-1), true.sum(-1))


def _confusion(truth: Truths, predicted: Truths) -> tuple[tuple[int, ...], ...]:
    counts = truth.astype(np.int64).T @ predicted.astype(np.int64)
    return tuple(tuple(row) for row in counts.tolist())


def always_commonest(truth: Truths, *, several: bool) -> float:
    """How often it is right of n labels, truth (n, K), to give every image what most labels are; of
    tags, each as most have it."""
    if several:
        row = truth.mean(axis=0) > 0.5
    else:
        row = np.zeros(truth.shape[1], bool)
        row[int(truth.sum(axis=0).argmax())] = True
    return float((truth == row).all(axis=1).mean())
