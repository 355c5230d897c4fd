"""What was loaded last and may be wanted again."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The things used last, at most `most` of them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], T]) -> T:
        if key not in self._held:
            while len(self._held) >= self.most:  # before loading: two need not fit in memory
                self._held.popitem(last=False)
            self._held[key] = load()
        self._held.move_to_end(key)
        return self._held[key]
