"""From a fit of a project with classes to its lists of picks; what needs no class, the start and
near-twins that are labelled apart, is as in `candidates`."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from more_itertools import interleave_evenly
from numpy.typing import NDArray

from tastemaker.learning.label_issues import class_issues
from tastemaker.learning.selection import FIRST_LABELS, near_threshold
from tastemaker.live.candidates import BATCH, FittedModel, contradicting, start
from tastemaker.live.class_fit import LEADING, ClassFit
from tastemaker.live.live_model import LISTED, Pick, PickLists, Picks, Why

PICKED = 0.5  # share of the Mixed queue that is near a boundary; the rest measures


def fast_lists(lists: PickLists, fitted: FittedModel, kinds: ClassFit | None) -> PickLists:
    """`lists` with those made anew that follow every label."""
    boundary = _boundary(fitted, kinds)
    return replace(
        lists,
        mixed=_mixed(fitted, boundary),
        near_threshold=boundary,
        no_class=_no_class(fitted, kinds),
    )


def slow_lists(lists: PickLists, fitted: FittedModel, kinds: ClassFit | None) -> PickLists:
    """`lists` with those made anew that compare every image, or every label, with every label."""
    return replace(
        lists,
        start=start(fitted),
        label_issues=_label_issues(fitted, kinds),
        contradictions=contradicting(fitted),
    )


def _mixed(fitted: FittedModel, boundary: Picks) -> Picks:
    """The first labels at random: they teach as much as any, and measure the first version. Then
    half of them near a boundary."""
    picked = boundary[: int(PICKED * BATCH)] if len(fitted.train) >= FIRST_LABELS else ()
    chosen = {pick.image_id for pick in picked}
    drawn = np.random.default_rng(fitted.seed).permutation(np.flatnonzero(fitted.control))
    control = [
        fitted.pick(row, "control")
        for row in drawn[:BATCH].tolist()
        if fitted.image_id(row) not in chosen
    ]
    return tuple(interleave_evenly([list(picked), control[: BATCH - len(picked)]]))


def _boundary(fitted: FittedModel, kinds: ClassFit | None) -> Picks:
    """Unlabelled images that could as well be of another class, drawn at random the more often the
    less the likeliest one leads: what is nearest may be one burst."""
    if kinds is None:
        return ()
    lead = 1 - fitted.rows["uncertainty"]
    rows = near_threshold(
        lead, np.ones_like(lead), fitted.candidates, BATCH, 0.0,
        np.random.default_rng(fitted.seed),
    )  # fmt: skip
    named = 1 if kinds.several else LEADING
    return tuple(_pick(fitted, kinds, row, "boundary", range(named)) for row in rows.tolist())


def _no_class(fitted: FittedModel, kinds: ClassFit | None) -> Picks:
    """Images that no class is likely for: less than half way from knowing nothing to certainty; of
    tags, that are said to have none. The unlikeliest first. Labelled ones are among them, each by a
    fit without its group; of tags, where none was said that is no surprise."""
    if kinds is None:
        return ()
    count = len(kinds.record.numbers)
    likely = 0.5 if kinds.several else (1 + 1 / count) / 2
    wanted = fitted.candidates.copy()
    if not kinds.several:
        wanted[fitted.train] = True
    rows = np.flatnonzero(wanted & (kinds.highest < likely))
    rows = rows[np.argsort(kinds.highest[rows], kind="stable")][:LISTED]
    named = range(1, LEADING) if kinds.several else range(LEADING)
    picks = [_pick(fitted, kinds, row, "no_class", named) for row in rows.tolist()]
    labelled = ~np.isnan(fitted.values[rows])
    return tuple(
        replace(pick, label=fitted.label(row)) if has else pick
        for pick, row, has in zip(picks, rows.tolist(), labelled.tolist(), strict=True)
    )


def _label_issues(fitted: FittedModel, kinds: ClassFit | None) -> Picks:
    if kinds is None:
        return ()
    issues = class_issues(kinds.out_of_group, kinds.truth, several=kinds.several)
    picks = []
    for at in issues.worst(LISTED).tolist():
        row, suspect = int(fitted.train[at]), int(issues.suspect[at])
        told = kinds.record.numbers[suspect], _rounded(kinds.out_of_group[at, suspect])
        pick = replace(fitted.pick(row, "doubtful"), label=fitted.label(row), likely=(told,))
        picks.append(replace(pick, quality=float(issues.quality[at])))
    return tuple(picks)


def _pick(fitted: FittedModel, kinds: ClassFit, row: int, why: Why, named: Iterable[int]) -> Pick:
    likely = tuple(
        (kinds.record.numbers[kinds.leading[row, n]], _rounded(kinds.shares[row, n])) for n in named
    )
    return replace(fitted.pick(row, why), likely=likely)


def _rounded(share: NDArray[np.float32] | float) -> float:
    return round(float(share), 4)
