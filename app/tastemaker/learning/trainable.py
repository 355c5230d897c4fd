"""Whether labels can teach anything: the one rule, asked before a training and in it."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.errors import NotTrainable

MORE = "Score a few more images, then train again."
OTHERS = "Score images that you like more, or less."


def why_not(y: ArrayLike, trains: ArrayLike) -> NotTrainable | None:
    """The first reason why labels y (n,) in 0-1 teach nothing, or None. Those where `trains` (n,)
    is true may train; the others are the hold-out, or near-duplicates of it."""
    y, trains = np.asarray(y, np.float64), np.asarray(trains, bool)
    if len(y) == 0:
        return NotTrainable("No image is scored yet, so there is nothing to learn from.", MORE)
    if len(y) == 1:
        return NotTrainable("Only one image is scored; training needs at least two.", MORE)
    if not (np.isfinite(y).all() and y.min() >= 0 and y.max() <= 1):
        return NotTrainable(
            "Some scores are outside their range of 0 to 10.", "Correct them first."
        )
    if y.min() == y.max():
        return NotTrainable(
            f"All {len(y)} scored images have the same score of {10 * y[0]:g}, "
            "so there is nothing to tell apart.",
            OTHERS,
        )
    training = y[trains]
    if len(training) == 0:
        return NotTrainable(
            "Outside the hold-out, which only measures, no image is scored yet.", MORE
        )
    if len(training) == 1:
        return NotTrainable(
            f"Of {len(y)} scored images only 1 may train: the others are the hold-out, or "
            "near-duplicates of it.",
            MORE,
        )
    if training.min() == training.max():
        return NotTrainable(
            "Outside the hold-out all scores are the same, so there is nothing to tell apart.",
            OTHERS,
        )
    return None


def why_no_classes(
    truth: NDArray[np.bool_], trains: NDArray[np.bool_], *, several: bool
) -> NotTrainable | None:
    """The same of classes: truth (n, K) says which of them each label has. With `several` they are
    tags, of which a label may have several or none."""
    what = "tags" if several else "classes"
    more = "Label a few more images, then train again."
    if not len(truth):
        return NotTrainable("No image is labelled yet, so there is nothing to learn from.", more)
    if not trains.any():
        return NotTrainable(
            "Outside the hold-out, which only measures, no image is labelled yet.", more
        )
    if trains.sum() == 1:
        return NotTrainable(
            f"Of {len(truth)} labelled images only 1 may train; training needs at least two.", more
        )
    held = truth[trains].any(axis=0)
    if several and not (held & ~truth[trains].all(axis=0)).any():
        return NotTrainable(
            "No tag is on some of the labelled images and not on others, so there is nothing to "
            "tell apart.",
            "Label images that differ.",
        )
    if not several and held.sum() < 2:
        elsewhere = truth.any(axis=0).sum() >= 2
        where = "Outside the hold-out, which only measures, all" if elsewhere else "All"
        return NotTrainable(
            f"{where} labelled images are of one class, so there is nothing to tell apart.",
            f"Label images of other {what} too.",
        )
    return None


def learnable(truth: NDArray[np.bool_], *, several: bool) -> NDArray[np.bool_]:
    """(K,) the classes that the labels (n, K) of a training can teach: those that some image has,
    and of tags, that some image has not."""
    known = np.asarray(truth.any(axis=0))
    return np.asarray(known & ~truth.all(axis=0)) if several else known
