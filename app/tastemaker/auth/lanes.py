"""Threads of their own for some requests, so that none of them waits for another kind.

All other requests share one pool of threads. What takes seconds (a picture decoded at full size, a
model that is asked, a password hashed slowly on purpose) would fill it, and a score that needs a
thread for a millisecond would stand behind all of it. So each slow kind has a lane with a queue of
its own, and scores have one that nothing slow can enter.
"""

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync

from tastemaker.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class _Traffic:
    """A lane in one event loop: its threads, and how many calls are in it, waiting ones too."""

    limiter: CapacityLimiter
    inside: int = 0


class Lane:
    """At most `threads` calls work at once, and `waiting` more wait for their turn; further ones
    are refused with `Unavailable`. A waiting call holds no thread."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self.name, self.threads, self.waiting = name, threads, waiting
        self._traffic: RunVar[_Traffic] = RunVar(f"lane of {name}")

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        traffic = self._traffic_here()
        if traffic.inside >= self.threads + self.waiting:
            raise Unavailable(
                f"Too many {self.name} are asked for at the moment; nothing was changed.",
                "Try again in a few seconds.",
            )
        traffic.inside += 1
        try:
            return await run_sync(functools.partial(work, *arguments), limiter=traffic.limiter)
        finally:
            traffic.inside -= 1

    def __call__(self, endpoint: Callable[P, T]) -> Callable[P, Awaitable[T]]:
        """Decorates an endpoint: it runs in this lane."""

        @functools.wraps(endpoint)
        async def in_lane(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self.run(functools.partial(endpoint, *args, **kwargs))

        return in_lane

    def _traffic_here(self) -> _Traffic:
        """In the running event loop, as anyio keeps its own default."""
        try:
            return self._traffic.get()
        except LookupError:
            self._traffic.set(traffic := _Traffic(CapacityLimiter(self.threads)))
            return traffic


SCORES = Lane("scores", threads=16, waiting=500)
SESSIONS = Lane("sessions", threads=8, waiting=500)
PASSWORDS = Lane("passwords", threads=2, waiting=100)
PICTURES = Lane("full-size pictures", threads=1, waiting=20)
MODELS = Lane("predictions", threads=8, waiting=24)
