"""An audit of a filter: how good is what it keeps, and how much is lost below the cut.

The images of a target lie on two sides of a cut: what is *kept*, and what is *below*. Some are
drawn at random from each side, and a person scores them without seeing what was predicted. What
follows from the answers holds at any time at which one stops (`sequential_bounds`), whatever the
model is worth: it only decides which side an image lies on. Where the model is worth nothing on
these images, that is told (`doubt`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tastemaker.learning.quantiles import normal_cdf
from tastemaker.learning.sequential_bounds import (
    MOST_DRAWS,
    draws_until_shown,
    is_shown,
    lower_bound,
    upper_bound,
)

Floats = NDArray[np.float64]
Doubt = Literal["", "reversed", "chance", "unlike"]

DRAWN = 600  # images of an audit, on both sides together
FEWEST_KEPT = 30  # below that one looks at all of them
STRICTER = (0.4, 0.5, 0.65, 0.8, 1.0)  # shares of what is kept: where a stricter cut may lie
SEARCH_BELOW, SEARCH_FEWEST = 0.05, 2 * FEWEST_KEPT  # of the goal; images that are kept at least
PRIOR_DRAWS = 10  # so many answers is what the model expects worth, in a forecast
STRICT_RATE = 0.97  # of what the strictest cut keeps, expected before any answer
FEWEST_BELOW = 8  # answers below the cut, before the sides are compared
UNLIKE_BY = 0.15  # what is kept is surely this much worse than the model expects
UNLIKE_SHARE = 0.5  # of a sample that lies farther out than nearly all it learned from
NO_ANSWER = -1


# --- drawing -----------------------------------------------------------------------------------


def draw(scores: Floats, cut: float, seed: int, share_below: float) -> list[int]:
    """Rows of `scores` (n,) in the order in which they are to be asked: each side in a random
    order of its own, and one of 1 ÷ `share_below` from below the cut, so that nobody knows which
    side an image comes from. At most `DRAWN`."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(scores))
    is_kept = scores[order] >= cut
    kept, below = iter(order[is_kept][:MOST_DRAWS]), iter(order[~is_kept][:MOST_DRAWS])
    rows: list[int] = []
    for number in range(DRAWN):
        turns = (below, kept) if _turn_of_below(number, share_below) else (kept, below)
        row = next(turns[0], None)
        row = next(turns[1], None) if row is None else row
        if row is None:
            break
        rows.append(int(row))
    return rows


def _turn_of_below(number: int, share: float) -> bool:
    return math.floor((number + 1) * share + 1e-9) > math.floor(number * share + 1e-9)


def cut_to_search_from(scores: Floats, expected: Floats, goal: float) -> float:
    """A cut from which on the stricter ones are worth trying for `goal`: the lowest score at which
    a little less than the goal of what is kept is good, as the model expects. Where it expects that
    nowhere, of the best few."""
    order = np.argsort(-scores, kind="stable")
    mean = np.cumsum(expected[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(mean >= goal - SEARCH_BELOW)
    last = max(int(enough[-1]) if len(enough) else 0, min(SEARCH_FEWEST, len(order)) - 1)
    return math.floor(1000 * float(scores[order[last]]) + 1e-6) / 1000


def stricter_cuts(kept: Floats, cut: float) -> tuple[tuple[float, int], ...]:
    """(cut, how many it keeps) from strict to lax, for scores (n,) of all that `cut` keeps; it is
    the last. Fixed by the scores alone, and round, so that one can type them."""
    ranked = np.sort(kept)[::-1]
    tried = [
        math.ceil(1000 * ranked[math.ceil(share * len(ranked)) - 1] - 1e-6) / 1000
        for share in STRICTER[:-1]
    ]
    cuts = [(each, int((ranked >= each).sum())) for each in (*tried, cut)]
    return tuple({size: (each, size) for each, size in cuts if size}.values())


def chance_of(scores: Floats, spread: Floats, good_from: int) -> Floats:
    """(n,) the chance, as the model has it, that a hand score is at least `good_from` of 0–10: by
    predictions and their standard deviations in 0–1, with normal errors."""
    edge = (good_from - 0.5) / 10
    apart = (scores - edge) / np.maximum(spread, 0.02)
    return np.array([normal_cdf(float(z)) for z in apart])


def share_unlike(sample: NDArray[Any], learned_from: NDArray[Any]) -> float:
    """The share of a sample (n, D) that is farther from everything in the training set (m, D) than
    99 % of that are from the rest of it, by the angle between vectors. About 0.01 for images of
    the same kind."""

    def unit(x: NDArray[Any]) -> NDArray[np.float32]:
        rows = np.asarray(x, np.float32)
        return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))

    trained = unit(learned_from)
    among = trained @ trained.T
    np.fill_diagonal(among, -1)
    usual = np.quantile(among.max(1), 0.01)
    nearest = (unit(sample) @ trained.T).max(1)
    return float((nearest < usual).mean())


# --- what the answers say ------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """One side of the cut: how many images there are (`size`); of those answered, in the order of
    the draw, the `scores` (n,) in 0–1 and whether they are good (n,): 1, 0 or `NO_ANSWER` for one
    that was skipped, which is taken for the worst in every bound; and the `expected` chance of
    being good, as the model has it, of all that were drawn."""

    size: int
    scores: Floats
    expected: Floats
    answers: NDArray[np.int8]

    @property
    def asked(self) -> int:
        return len(self.answers)

    @property
    def answered(self) -> int:
        return int((self.answers != NO_ANSWER).sum())

    @property
    def good(self) -> int:
        return int((self.answers == 1).sum())

    @property
    def rate(self) -> float | None:
        return self.good / self.answered if self.answered else None

    def at_least(self, error: float) -> float:
        return lower_bound(self.answers == 1, self.size, error)

    def at_most(self, error: float) -> float:
        return upper_bound(self.answers != 0, self.size, error)


@dataclass(frozen=True)
class FoundCut:
    """The laxest of the tried cuts that is shown to hold the goal, and how many it keeps."""

    cut: float
    kept: int


@dataclass(frozen=True)
class Findings:
    """What an audit says so far; shares in 0–1, None before there are answers.

    `precision` of what is kept is good, with a chance of at most 1 − confidence that it is less
    than `precision_low`, and the same that it is more than `precision_high`. `omitted` of what is
    below is good (at most `omitted_high`); `lost` of all good images are below (at most
    `lost_high`). `holds`: the goal is shown, and nothing speaks against it.
    `more_keys`: what each promise would still cost, as it looks, and `keys_to_a_cut` what a first
    cut that holds the goal would; None where it looks out of reach.
    """

    precision: float | None
    precision_low: float
    precision_high: float
    omitted: float | None
    omitted_high: float
    lost: float | None
    lost_high: float
    found_cut: FoundCut | None
    doubt: Doubt
    holds: bool
    more_keys: dict[int, int | None]
    keys_to_a_cut: int | None


def findings(
    kept: Side, below: Side, cuts: Sequence[tuple[float, int]], *, goal: float, confidence: float,
    share_below: float,
) -> Findings:  # fmt: skip
    """What follows from the answers on both sides. `cuts` are those of `stricter_cuts`."""
    error = 1 - confidence
    low, high = kept.at_least(error), kept.at_most(error)
    below_rate = below.rate if below.size else 0.0
    lost = None
    if kept.rate is not None and below_rate is not None:
        good_below, good_kept = below_rate * below.size, kept.rate * kept.size
        lost = good_below / (good_below + good_kept) if good_below + good_kept else None
    # of two bounds at once, each may be wrong half as often
    most_below = below.size * below.at_most(error / 2) if below.size else 0.0
    least_kept = kept.size * kept.at_least(error / 2)
    doubt = doubt_about(kept, below, high)
    return Findings(
        precision=kept.rate,
        precision_low=low,
        precision_high=high,
        omitted=below_rate,
        omitted_high=below.at_most(error) if below.size else 0.0,
        lost=lost,
        lost_high=most_below / (most_below + least_kept) if most_below else 0.0,
        found_cut=cut_that_holds(kept, cuts, goal, error),
        doubt=doubt,
        holds=low >= goal and doubt not in ("reversed", "unlike"),
        more_keys={
            percent: keys_until(
                goal if percent == round(100 * goal) else percent / 100,
                kept,
                below,
                error,
                share_below,
            )
            for percent in sorted({round(100 * goal), 80, 90, 95})
        },
        keys_to_a_cut=keys_to_a_cut(kept, cuts, goal, error, share_below),
    )


def cut_that_holds(
    kept: Side, cuts: Sequence[tuple[float, int]], goal: float, error: float
) -> FoundCut | None:
    """The laxest cut for which at least `goal` of what it keeps is shown to be good. The cuts are
    tested one after the other, from strict to lax, each at the full error, up to the first that is
    not shown (fixed-sequence testing, Maurer, Hothorn & Lehmacher 1995): so the chance that any
    cut is wrongly named is at most `error`. What a stricter cut keeps of a random draw is one."""
    found = None
    for cut, size in cuts:
        inside = kept.scores >= cut
        if not is_shown(goal, kept.answers[inside] == 1, size, error):
            break
        found = FoundCut(cut, size)
    return found


def keys_until(
    share: float, kept: Side, below: Side, error: float, share_below: float
) -> int | None:
    """How many more keys show that at least `share` of what is kept is good, if the next images are
    as those before, and the model expects. 0 where it is shown; None where it looks out of
    reach."""
    if kept.at_least(error) >= share:
        return 0
    expected = float(kept.expected.mean()) if len(kept.expected) else 0.95
    rate = (kept.good + PRIOR_DRAWS * expected) / (kept.answered + PRIOR_DRAWS)
    bad = kept.asked - kept.good
    draws = draws_until_shown(share, kept.size, error, kept.asked, bad, rate)
    if draws is None:
        return None
    more = kept.asked + draws
    both = math.ceil(more / (1 - share_below)) if below.size else more
    return max(draws, both - kept.asked - below.asked)


def keys_to_a_cut(
    kept: Side, cuts: Sequence[tuple[float, int]], goal: float, error: float, share_below: float
) -> int | None:
    """How many more keys show that the strictest of the cuts holds the goal, as it looks."""
    cut, size = cuts[0]
    inside = kept.answers[kept.scores >= cut]
    if is_shown(goal, inside == 1, size, error):
        return 0
    good, answered = int((inside == 1).sum()), int((inside != NO_ANSWER).sum())
    rate = (good + PRIOR_DRAWS * STRICT_RATE) / (answered + PRIOR_DRAWS)
    draws = draws_until_shown(goal, size, error, len(inside), len(inside) - good, rate)
    if draws is None:
        return None
    return math.ceil(draws * kept.size / size / (1 - share_below))


def doubt_about(kept: Side, below: Side, most: float) -> Doubt:
    """Why the model is not to be relied on for these images. `most` is the upper bound of what is
    good of the kept."""
    if kept.answered >= FEWEST_KEPT and most < float(kept.expected.mean()) - UNLIKE_BY:
        worse: Doubt = "unlike"
    else:
        worse = ""
    if kept.answered < FEWEST_BELOW or below.answered < FEWEST_BELOW:
        return worse
    if _at_most(kept.good, kept.answered, below.good, below.answered) < 0.01:
        return "reversed"
    if _at_most(below.good, below.answered, kept.good, kept.answered) > 0.1:
        return "chance"
    return worse


def _at_most(good: int, n: int, other_good: int, other_n: int) -> float:
    """The chance of so few good among n, or fewer, if both sides had the same share of them
    (Fisher's exact test, one-sided)."""
    every, goods = n + other_n, good + other_good
    ways = [math.comb(goods, k) * math.comb(every - goods, n - k) for k in range(good + 1)]
    return sum(ways) / math.comb(every, n)
