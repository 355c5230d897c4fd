"""Counts that pages show: exact and of this moment where a library is of ordinary size, a little
old where it is very large.

A count over a million rows takes a third of a second, which is too long for every page and not
worth it either: nobody sees whether 1,000,000 are 1,000,012. So a large count is kept for a while,
and the longer it took the longer.
"""

import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

LARGE = 50_000  # from here on a count may be old
LEAST_SECONDS = 10.0
PATIENCE = 60  # a count that is asked for all the time may take 1 ÷ 60 of the time
MOST_KEPT = 1000

T = TypeVar("T")
_kept: dict[Hashable, tuple[Any, float]] = {}


def cached_count(key: Hashable, count: Callable[[], T], large: Callable[[T], bool]) -> T:
    """What `count` gives, or gave not long ago under this key in this process if that was
    `large`."""
    known = _kept.get(key)
    if known is not None and time.monotonic() < known[1]:
        kept: T = known[0]
        return kept
    began = time.monotonic()
    value = count()
    took = time.monotonic() - began
    if large(value):
        if len(_kept) >= MOST_KEPT:
            _kept.clear()
        _kept[key] = (value, time.monotonic() + max(LEAST_SECONDS, PATIENCE * took))
    else:
        _kept.pop(key, None)
    return value
