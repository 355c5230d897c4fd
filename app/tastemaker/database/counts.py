"""Counts that pages show: exact and of this moment where a library is of ordinary size, a little
old where it is very large.

A count over a million rows takes a third of a second, which is too long for every page and not
worth it either: nobody sees whether 1,000,000 are 1,000,012. So a large count is kept for a while,
and the longer it took the longer.
"""

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

from cachetools import TLRUCache

LARGE = 50_000  # from here on a count may be old
LEAST_SECONDS = 10.0
PATIENCE = 60  # a count that is wanted all the time may take 1 ÷ 60 of the time
MOST_KEPT = 1000

T = TypeVar("T")


class _Count(NamedTuple):
    value: Any
    seconds: float  # that it took


def _expires(_: Hashable, count: _Count, now: float) -> float:
    return now + max(LEAST_SECONDS, PATIENCE * count.seconds)


_counts: TLRUCache[Hashable, _Count] = TLRUCache(MOST_KEPT, _expires)
_lock = threading.Lock()


def cached_count(key: Hashable, count: Callable[[], T], large: Callable[[T], bool]) -> T:
    """What `count` returns, or returned not long ago under this key in this process if that was
    `large`."""
    with _lock:
        known = _counts.get(key)
    if known is not None:
        value: T = known.value
        return value
    began = time.monotonic()
    value = count()
    if large(value):
        with _lock:
            _counts[key] = _Count(value, time.monotonic() - began)
    return value
