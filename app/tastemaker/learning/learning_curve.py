"""The learning curve of a real project, and what choosing the images has saved.

A linear head is refitted on the first n labels, in the order they were given, and measured on the
hold-out. The labels drawn at random make a second curve: what labelling without a model
would have brought. Where that curve can be followed far enough, it tells how many random
labels it would have taken to err as little; the difference is the labels saved. What more labels
would bring is forecast beside it (see `forecast`), without a hold-out too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tastemaker.learning import metrics
from tastemaker.learning.city96 import Array
from tastemaker.learning.folds import Rows, Split, TrainingSet
from tastemaker.learning.forecast import forecast
from tastemaker.learning.ridge import ridge_or_none
from tastemaker.learning.version_metrics import LabelsSaved, LearningCurve, LearningPoint

FEWEST = 10  # labels of the first point of a curve
POINTS = 10  # of a curve
FEWEST_CONTROLS = 40  # fewer random labels draw no curve
FARTHEST = 8.0  # how many times its own length the random curve is trusted ahead
RESAMPLES = 400


def learning_curve(
    data: TrainingSet,
    split: Split,
    order: NDArray[np.integer],
    control: Rows,
    noise_floor: float | None = None,
) -> LearningCurve:
    """Hold-out MAE (points of 0-10, with its interval) after the first n training labels.

    `order` (n,) rises with the time of a label; `control` (n,) is True where the image was drawn at
    random; `noise_floor` is the error of a perfect model. No points where nothing measures.
    """
    rows = np.flatnonzero(split.train)
    rows = rows[np.argsort(order[rows], kind="stable")]
    held = np.flatnonzero(split.holdout)
    points = [
        LearningPoint(labels=n, mae=metrics.mean_error(data.y[held], scores, split.groups[held]))
        for n, scores in (_heads(data, split, rows, held) if len(held) else [])
    ]
    return LearningCurve(
        points=tuple(points),
        noise_floor=noise_floor,
        labels_saved=_labels_saved(data, split, rows, rows[control[rows]], held),
        forecast=forecast(data, split),
    )


def _heads(
    data: TrainingSet, split: Split, rows: NDArray[np.intp], held: NDArray[np.intp]
) -> list[tuple[int, Array]]:
    """(n, scores of the hold-out) by linear heads on the first n of `rows`, n rising evenly on a
    logarithmic scale up to all of them."""
    if len(rows) < 2:
        return []
    first = min(FEWEST, len(rows))
    sizes = np.unique(np.geomspace(first, len(rows), POINTS).round().astype(int))
    heads = []
    for n in sizes.tolist():
        seen = rows[:n]
        ridge = ridge_or_none(data.x[seen], data.y[seen], split.groups[seen], priors=data.priors)
        if ridge is not None:
            heads.append((n, ridge.predict(data.x[held])))
    return heads


def _labels_saved(
    data: TrainingSet,
    split: Split,
    rows: NDArray[np.intp],
    controls: NDArray[np.intp],
    held: NDArray[np.intp],
) -> LabelsSaved:
    """How many more random labels would have been needed, with a 95 % interval, or why nobody
    knows. The random curve is a power law, error = a·n^(−b), through its own points."""

    def unknown(why: str) -> LabelsSaved:
        return LabelsSaved(value=None, low=None, high=None, why=why)

    if len(np.unique(split.groups[held])) < metrics.FEWEST_GROUPS:
        return unknown("the hold-out is too small to measure anything yet")
    if len(controls) == len(rows):
        return unknown("every label was drawn at random, so nothing was chosen that could save any")
    if len(controls) < FEWEST_CONTROLS:
        return unknown(
            f"{len(controls)} training labels were drawn at random; {FEWEST_CONTROLS} are needed"
        )
    whole = ridge_or_none(data.x[rows], data.y[rows], split.groups[rows], priors=data.priors)
    random = _heads(data, split, controls, held)
    if whole is None or len(random) < 4:
        return unknown("the labels drawn at random are all the same")
    sizes = np.array([n for n, _ in random], np.float64)
    errors = np.array([np.abs(scores - data.y[held]) for _, scores in random])  # (points, held)
    reached = np.abs(whole.predict(data.x[held]) - data.y[held])

    def needed(weights: NDArray[np.float64]) -> float:
        """Random labels that would bring the error reached, with each image so often."""
        curve, goal = errors @ weights / weights.sum(), reached @ weights / weights.sum()
        # Later points rest on more labels, and they are the ones the curve is followed from.
        slope, level = np.polyfit(np.log(sizes), np.log(curve), 1, w=np.sqrt(sizes))
        return float(np.exp((np.log(goal) - level) / slope)) if slope < -1e-3 else float("inf")

    keys = np.unique(split.groups[held], return_inverse=True)[1].ravel()
    count = int(keys.max()) + 1
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    again = sorted(needed(times[keys].astype(float)) for times in draws)
    low, high = again[round(0.025 * RESAMPLES)], again[round(0.975 * RESAMPLES) - 1]
    value = needed(np.ones(len(held)))
    if not high <= FARTHEST * sizes[-1]:
        return unknown(
            f"the curve of the {len(controls)} random labels cannot be followed that far"
        )
    n = len(rows)
    return LabelsSaved(
        value=round(value - n), low=round(low - n), high=round(high - n),
        why=f"against a curve through {len(controls)} labels drawn at random",
    )  # fmt: skip
