"""How work reports how far it is: to the page of a job, or to nobody; and in which portions what
was made is stored."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

IN_MB = ", in MB"  # how the message of a part ends that counts megabytes

Item = TypeVar("Item")


class Progress(Protocol):
    def stage(self, message: str, total: int = 0) -> None:
        """Begin a part of the work with its own count."""

    def progress(
        self,
        done: int,
        total: int | None = None,
        message: str | None = None,
        curve: dict[str, Any] | None = None,
    ) -> None:
        """Report how far that part is; `curve` is the loss curve so far."""

    def log(self, line: str) -> None:
        """Add a line to the log."""


class Silent:
    """Progress that nobody watches."""

    def stage(self, message: str, total: int = 0) -> None: ...

    def progress(
        self,
        done: int,
        total: int | None = None,
        message: str | None = None,
        curve: dict[str, Any] | None = None,
    ) -> None: ...

    def log(self, line: str) -> None: ...


def download_of(job: Progress, name: str) -> Callable[[int, int], None]:
    """Tells the job how far the weights of an encoder are fetched, in MB."""
    begun: list[int] = []

    def report(done: int, total: int) -> None:
        if begun != [total]:
            begun[:] = [total]
            job.stage(f"Fetching the weights of {name}{IN_MB}", total // 10**6)
        job.progress(done // 10**6)
        if done == total:
            job.stage(f"Loading the encoder {name}")

    return report


def portions(items: Iterable[Item], most: int, seconds: float) -> Iterator[list[Item]]:
    """So many items at a time, or as many as came within so many seconds: of slow work too, what
    was made is stored before long."""
    some: list[Item] = []
    began = time.monotonic()
    for item in items:
        some.append(item)
        if len(some) >= most or time.monotonic() - began >= seconds:
            yield some
            some, began = [], time.monotonic()
    if some:
        yield some
