"""The live model's predictions in the library: an array, in an order of its own."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tastemaker.library.orders import Order
from tastemaker.library.scopes import ResolvedFilter
from tastemaker.live.live_model import LiveModel
from tastemaker.scores.classes import MOST_TAG_NUMBERS


def live_in_order(
    resolved: ResolvedFilter, order: Order, cursor: tuple[Any, int] | None, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """(ids, scores) behind the cursor and inside the range asked for, by score or by id: all there
    are, or a few more than `most`. Selecting these costs a tenth of sorting a million."""
    assert resolved.live is not None
    ids, scores = resolved.live.ids, resolved.live.scores
    keep = ~np.isnan(scores)
    if resolved.filter.predicted_min is not None:
        keep &= scores >= np.float32(resolved.filter.predicted_min)
    if resolved.filter.predicted_max is not None:
        keep &= scores <= np.float32(resolved.filter.predicted_max)
    keep &= _taken_for(resolved, resolved.live.rows["says"])
    sign = -1 if order.descending else 1
    if order.by == "added":
        if cursor is not None:
            keep &= sign * ids > sign * cursor[1]
        at = np.flatnonzero(keep)[::sign][: most + 1]
        return ids[at], scores[at]
    if cursor is not None:
        last = np.float32(cursor[0])
        tied = (scores == last) & (sign * ids > sign * cursor[1])
        keep &= (sign * scores > sign * last) | tied
    at = np.flatnonzero(keep)
    key = sign * scores[at]
    if len(at) > most + 1:
        least = np.partition(key, most)[most]
        at = at[key <= least]  # all that tie with the last one too
    inside = np.lexsort((sign * ids[at], sign * scores[at]))
    return ids[at][inside], scores[at][inside]


def within_live(resolved: ResolvedFilter, rows: Sequence[Any]) -> list[Any]:
    """Those rows (key, image id, …) whose live prediction lies in the range asked for, or names
    the class."""
    if resolved.live is None or not rows:
        return []
    scores = live_scores(resolved.live, [row[1] for row in rows])
    low = resolved.filter.predicted_min or 0.0
    high = 1.0 if resolved.filter.predicted_max is None else resolved.filter.predicted_max
    with np.errstate(invalid="ignore"):
        inside = (scores >= np.float32(low)) & (scores <= np.float32(high))
    if resolved.filter.predicted_as is not None:
        says = np.array([resolved.live.says(row[1]) or 0 for row in rows], np.int64)
        inside &= _taken_for(resolved, says)
    return [row for row, keep in zip(rows, inside, strict=True) if keep]


def _taken_for(resolved: ResolvedFilter, says: np.ndarray) -> np.ndarray:
    """(N,) whether what is said of images (N,), as a label holds it, names the class asked for."""
    if resolved.filter.predicted_as is None or resolved.kinds is None:
        return np.ones(len(says), bool)
    numbers = resolved.kinds.merged_with(resolved.filter.predicted_as)
    if resolved.kinds.several:
        mask = sum(1 << number for number in numbers if number < MOST_TAG_NUMBERS)
        return np.asarray(says & mask != 0)
    return np.isin(says, numbers)


def live_scores(live: LiveModel, ids: Iterable[int]) -> np.ndarray:
    """(N,) scores in [0, 1], NaN for images the live model has not seen."""
    wanted = np.asarray(list(ids), np.int64)
    known = live.ids
    at = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
    if not len(known):
        return np.full(len(wanted), np.nan, np.float32)
    return np.where(known[at] == wanted, live.scores[at], np.float32(np.nan))
