"""Bounds on a share that hold whenever one stops looking.

Of a finite population some are good. They are drawn at random without replacement, one after the
other, and after any number of draws one wants to say “at least so many are good”, also if one only
stops because the number looks fine by now. An interval made for a fixed number of draws is wrong
then: looked at after every draw, a 95 % interval fails in far more than 5 %.

So the permitted error is spent over the draws (Lan & DeMets 1983): for each share of a grid that is
to be ruled out, the number of bad ones up to which it is ruled out after n draws is such that the
chance to be ruled out by then, though true, is at most what may be spent by then. That chance is
counted exactly, over all ways in which the draws can go (a hypergeometric path), so the bound is
exact at any size of the population and any stopping time; turned into bounds on the share, these
are the repeated confidence intervals of Jennison & Turnbull (1984). More good ones only make more
good draws, so what rules out a share rules out every lower one as well.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MOST_DRAWS = 500  # all of the error is spent by then
HORIZON = 120  # most of it by then, evenly: 90 % of what passes is about there to be shown or not
BY_HORIZON = 0.8  # of the error
GRID = tuple(
    round(share, 4)
    for share in (*np.arange(5, 50, 5) / 100, *np.arange(50, 100) / 100, 0.995, 0.998, 0.999)
)  # shares that a bound can name


def lower_bound(good: NDArray[np.bool_], size: int, error: float) -> float:
    """A share of the population that at least is good, 0–1, wrong with a chance of at most `error`.

    `good` (n,) tells of the draws, in their order, whether each was good; `size` is how many there
    are in all. With more than `MOST_DRAWS` the later ones only count as themselves.
    """
    good = np.asarray(good, np.bool_)
    seen = float(good.sum() / size) if size else 0.0
    if len(good) >= size:
        return seen
    n = min(len(good), MOST_DRAWS)
    if not n:
        return 0.0
    bad = np.cumsum(~good[:n])
    ruled_out = (bad <= allowed(size, error, GRID, n)[:, 1:]).any(1)
    first = len(GRID) if ruled_out.all() else int(ruled_out.argmin())
    return max(seen, GRID[first - 1] if first else 0.0)


def upper_bound(good: NDArray[np.bool_], size: int, error: float) -> float:
    """A share of the population that at most is good; otherwise as `lower_bound`."""
    return 1 - lower_bound(~np.asarray(good, np.bool_), size, error)


def is_shown(share: float, good: NDArray[np.bool_], size: int, error: float) -> bool:
    """Whether the draws show that at least `share` of the population are good."""
    good = np.asarray(good, np.bool_)
    if len(good) >= size:
        return bool(good.sum() >= share * size - 1e-9)
    n = min(len(good), MOST_DRAWS)
    if not n:
        return False
    bad = np.cumsum(~good[:n])
    return bool((bad <= allowed(size, error, (share,), n)[0, 1:]).any())


def draws_until_shown(
    share: float, size: int, error: float, n: int, bad: int, rate: float
) -> int | None:
    """How many more draws it takes to show that at least `share` are good, if after `n` draws with
    `bad` bad ones a share `rate` of the next are good. None where it does not come to that."""
    limit = min(size, MOST_DRAWS)
    if n >= limit:
        return None
    later = np.arange(max(n, 1), limit + 1)
    expected = np.floor(bad + (1 - rate) * (later - n) + 0.5)
    enough = expected <= allowed(size, error, (share,), limit)[0, later]
    if size <= MOST_DRAWS:  # whoever has seen all of them knows
        enough[-1] |= size - expected[-1] >= share * size - 1e-9
    return int(later[enough.argmax()] - n) if enough.any() else None


def allowed(size: int, error: float, shares: tuple[float, ...], draws: int) -> NDArray[np.int16]:
    """(shares, draws + 1) how many bad ones after n draws at most rule out that less than a share
    of the population is good; −1 where none do."""
    upto = min(-(-draws // 32) * 32, size, MOST_DRAWS)  # in steps, so that few tables are made
    return _allowed(size, error, shares, upto)[:, : draws + 1]


@lru_cache(maxsize=512)
def _allowed(size: int, error: float, shares: tuple[float, ...], upto: int) -> NDArray[np.int16]:
    good_ones = np.ceil(np.array(shares) * size - 1e-9) - 1  # where the share is just not reached
    bad_ones = size - good_ones
    rows, counts = np.arange(len(shares)), np.arange(upto + 2)
    chance = np.zeros((len(shares), upto + 2))  # of so many bad ones, and no share ruled out yet
    chance[:, 0] = 1
    limit, spent = np.full(len(shares), -1), np.zeros(len(shares))
    table = np.full((len(shares), upto + 1), -1, np.int16)
    soon, late = min(HORIZON, 0.6 * size), min(MOST_DRAWS, size)
    for n in range(1, upto + 1):
        next_is_bad = np.clip((bad_ones[:, None] - counts) / (size - n + 1), 0, 1)
        moves = chance * next_is_bad
        chance = chance - moves
        chance[:, 1:] += moves[:, :-1]
        budget = error * (BY_HORIZON * min(1.0, n / soon) + (1 - BY_HORIZON) * min(1.0, n / late))
        while True:
            one_more = chance[rows, limit + 1]
            # fewer bad ones than the share would bring, and the error of saying so can be spent
            raised = ((limit + 1) * size < n * bad_ones) & (spent + one_more <= budget)
            if not raised.any():
                break
            spent += np.where(raised, one_more, 0)
            chance[rows[raised], limit[raised] + 1] = 0
            limit = limit + raised
        table[:, n] = limit
    table.flags.writeable = False
    return table
