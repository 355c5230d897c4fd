"""Wrong passwords and tokens, counted, so that nobody can guess for long."""

import threading
import time
from collections import deque
from collections.abc import Callable

from tastemaker.errors import TooManyAttempts

Bucket = tuple[str, str]  # what is counted for, and whose


class FailedLogins:
    """Wrong passwords by address, and by name. After `limit` of them from an address within
    `window` seconds, no further attempt from there is looked at. For a name, from wherever, five
    times as many are: one stranger shall not lock others out. A token has no name.

    A browser in which that name has signed in before counts for itself alone, so that strangers
    cannot shut its person out, however much they guess.
    """

    def __init__(
        self, limit: int = 10, window: float = 600.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit, self.window, self.clock = limit, window, clock
        self._lock = threading.Lock()
        self._failed: dict[Bucket, deque[float]] = {}

    def begin(self, address: str, name: str = "", device: str = "") -> Callable[[], None]:
        """Count an attempt as wrong before it is looked at: any number of them at once then are no
        more than one after the other. Returns what to call when it was right. Raises
        `TooManyAttempts`."""
        buckets: dict[Bucket, int] = (
            {("device", device): self.limit} if device else {("address", address): self.limit}
        )
        if name and not device:
            buckets["name", name] = 5 * self.limit
        with self._lock:
            self._forget()
            if any(len(self._failed.get(key, ())) >= most for key, most in buckets.items()):
                raise TooManyAttempts(
                    "Too many wrong passwords or tokens from this address, or for this name.",
                    "Wait ten minutes, then try again.",
                )
            moment = self.clock()
            for key in buckets:
                self._failed.setdefault(key, deque()).append(moment)

        def was_right() -> None:
            with self._lock:
                for key in buckets:
                    if moment in (times := self._failed.get(key, deque())):
                        times.remove(moment)

        return was_right

    def _forget(self) -> None:
        oldest = self.clock() - self.window
        for key, times in list(self._failed.items()):
            while times and times[0] < oldest:
                times.popleft()
            if not times:
                del self._failed[key]
