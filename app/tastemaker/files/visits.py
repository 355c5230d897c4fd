"""Looking at files that may lie on a share which does not answer any more.

The system then lets a look wait for as long as it likes, and nothing can wake it. So another thread
looks; whoever asked goes on without it after a while.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
T = TypeVar("T")

SECONDS = 5.0  # without any answer, after which one is no longer waited for
MOST_SILENT = 3  # then no further one is looked at: each would cost as long again


class _Walk(threading.Thread, Generic[Item, T]):
    """Looks at the items from `at` on, until it is given up."""

    def __init__(
        self, look: Callable[[Item], T], items: Sequence[Item], told: list[T | None], at: int
    ) -> None:
        super().__init__(daemon=True)  # it may never end
        self.look, self.items, self.told, self.at = look, items, told, at
        self.given_up = False
        self.error: Exception | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            for number in range(self.at, len(self.items)):
                answer = self.look(self.items[number])
                if self.given_up:
                    return
                self.told[number] = answer
                self.at = number + 1
        except Exception as error:  # it is raised where it was asked for
            self.error = error
        self.ended.set()


def visit(look: Callable[[Item], T], items: Sequence[Item]) -> list[T | None]:
    """What `look` says of each item; None where no answer came in time, and of all further ones
    once `MOST_SILENT` gave none. Raises what `look` raises."""
    told: list[T | None] = [None] * len(items)
    start = 0
    for _ in range(MOST_SILENT):
        walk = _Walk(look, items, told, start)
        walk.start()
        seen = -1
        while not walk.ended.wait(SECONDS):
            if walk.at == seen:
                break
            seen = walk.at
        else:
            if walk.error is not None:
                raise walk.error
            return told
        walk.given_up = True
        start = walk.at + 1
    return told
