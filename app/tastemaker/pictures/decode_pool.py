"""Decoding in child processes, which a bad file may kill.

A picture can be made so that reading it takes all memory, all time, or crashes the decoder. Each
file is therefore read in a child with limits, and only that file pays.
"""

import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tastemaker.errors import BadImage
from tastemaker.pictures.pictures import Limits
from tastemaker.processes import exit_with_parent
from tastemaker.processes.systems import beginning_children, limit_cpu, limit_memory

T = TypeVar("T")
R = TypeVar("R")


class DecodePool:
    """Runs a function over many files in child processes that a bad file may kill.

    Each child has a memory limit, and a CPU limit for every file. It works on one file at a time,
    so when it dies (out of memory, a crash inside a decoder) the guilty file is known: that one
    gets a `BadImage`, a fresh child takes its place, and the other files never notice. Children
    end with their parent, even when it is killed.

    The function and the files must be picklable, and the main module importable without torch, or
    every child pays for it. A daemonic process cannot use this (it may not have children).
    """

    def __init__(
        self, workers: int | None = None, limits: Limits | None = None, cpu_seconds: int = 120
    ) -> None:
        workers = workers or side_by_side()
        # A decoded pixel takes 4 bytes in Pillow; flattening and turning hold up to three copies.
        self._memory = 2**30 + 16 * (limits or Limits()).pixels
        self._cpu_seconds = cpu_seconds
        self._idle = [self._child() for _ in range(workers)]

    def start(self) -> None:
        """Let the children begin now, rather than with the first file each."""
        for child in self._idle:
            _hand(child, os.getpid)

    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R | BadImage]]:
        """Yield (item, result or BadImage) as they finish, at most one item per child under way.

        Items are drawn only when a child is free, so an endless iterator is fine. Any exception
        of `task` other than `BadImage` (a full disk, a bug) is raised here.
        """
        source = iter(items)
        running: dict[Future[R], tuple[ProcessPoolExecutor, T]] = {}
        try:
            while True:
                while self._idle and (item := next(source, _END)) is not _END:
                    child = self._idle.pop()
                    work = functools.partial(_within_cpu_limit, self._cpu_seconds, task, item)
                    try:
                        future = _hand(child, work)
                    except BrokenProcessPool:  # it died while idle: no file is to blame
                        child = self._child()
                        future = _hand(child, work)
                    running[future] = (child, item)
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    child, item = running.pop(future)
                    try:
                        outcome: R | BadImage = future.result()
                    except BadImage as error:
                        outcome = error
                    except MemoryError:
                        outcome = BadImage("Reading this file takes more memory than is allowed.")
                    except BrokenProcessPool:
                        child.shutdown(wait=False)
                        child = self._child()
                        outcome = BadImage(
                            "Reading this picture took too much memory or time, or crashed the "
                            "decoder; it was skipped.",
                            "Save the picture again, smaller, or leave it out.",
                        )
                    finally:
                        self._idle.append(child)
                    yield item, outcome
        finally:  # also when the caller stops half-way: wait for the few files under way
            for future, (child, _) in running.items():
                wait([future])
                self._idle.append(child)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().shutdown()

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _child(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin_child,
            initargs=(self._memory,),
        )


def _hand(child: ProcessPoolExecutor, work: Callable[[], R]) -> Future[R]:
    """Give a child its work, with which it may begin."""
    with beginning_children():
        return child.submit(work)


def side_by_side() -> int:
    """How many pictures are decoded at once: by half of the cores, since people score meanwhile;
    two at least, as one may wait for its file, and at most eight, whose memory adds up."""
    return min(8, max(2, (os.cpu_count() or 1) // 2))


_END: Any = object()


def _begin_child(memory: int) -> None:
    """Limit this child's own data (not its shared libraries), and tie its life to the parent's.
    Where the whole machine runs out of memory, it is this child that the system shall end."""
    limit_memory(memory)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    exit_with_parent()


def _within_cpu_limit(seconds: int, task: Callable[[T], R], item: T) -> R:
    """Run the task with CPU `seconds` to spend; the system kills a child that overspends."""
    limit_cpu(seconds)
    return task(item)
