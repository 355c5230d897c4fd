"""Decoding in child processes, which a bad file may kill.

A picture can be made so that reading it takes all memory, all time, or crashes the decoder. Each
file is therefore read in a child with limits, and only that file pays.
"""

import contextlib
import functools
import multiprocessing.connection
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

from tastemaker.errors import BadImage
from tastemaker.pictures.pictures import Limits
from tastemaker.processes import exit_with_parent
from tastemaker.processes.systems import begin, children_with, limit_cpu, limit_memory

COMMON = ("tastemaker.pictures.pictures",)  # what every child needs to read a picture

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
        self._idle = [_Child(self._memory) for _ in range(workers)]

    def start(self) -> None:
        """Let the children begin now, rather than with the first file each."""
        for child in self._idle:
            child.begin()

    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R | BadImage]]:
        """Yield (item, result or BadImage) as they finish, at most one item per child under way.

        Items are drawn only when a child is free, so an endless iterator is fine. Any exception
        of `task` other than `BadImage` (a full disk, a bug) is raised here.
        """
        source = iter(items)
        running: dict[Connection, tuple[_Child, T]] = {}
        try:
            while True:
                while self._idle and (item := next(source, _END)) is not _END:
                    work = functools.partial(_within_cpu_limit, self._cpu_seconds, task, item)
                    child = self._idle.pop()
                    try:
                        running[child.hand(work)] = (child, item)
                    except BaseException:  # perhaps interrupted once the work was on its way
                        child.end(at_once=True)
                        self._idle.append(child)
                        raise
                if not running:
                    return
                for answering in _ready(list(running)):
                    child, item = running.pop(answering)
                    try:
                        outcome: R | BadImage = child.answer()
                    except BadImage as error:
                        outcome = error
                    except MemoryError:
                        outcome = BadImage("Reading this file takes more memory than is allowed.")
                    except _Died:
                        outcome = BadImage(
                            "Reading this picture took too much memory or time, or crashed the "
                            "decoder; it was skipped.",
                            "Save the picture again, smaller, or leave it out.",
                        )
                    finally:
                        self._idle.append(child)
                    yield item, outcome
        finally:  # also when the caller stops half-way: wait for the few files under way
            for child, _ in running.values():
                with contextlib.suppress(Exception):  # nobody asks any more
                    child.answer()
                self._idle.append(child)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().end()

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Died(Exception):
    """A child ended amid its work."""


class _Child:
    """A process that works on one file at a time. It begins with the first, and where it has died,
    another begins with the next."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._begun: tuple[BaseProcess, Connection] | None = None

    def begin(self) -> Connection:
        """What it answers through. Raises `OSError` where the system has no process left."""
        if self._begun is None:
            context = children_with(COMMON)
            ours, its = context.Pipe()
            process = context.Process(target=_serve, args=(its, self._memory), daemon=True)
            with its:
                begin(process)
            self._begun = process, ours
        return self._begun[1]

    def hand(self, work: Callable[[], R]) -> Connection:
        """Give it its work. What it answers through is ready to be read once it is done."""
        try:
            self.begin().send(work)
        except (BrokenPipeError, ConnectionResetError):  # it died while idle: no file is to blame
            self.end()
            self.begin().send(work)
        return self.begin()

    def answer(self) -> Any:
        """What the work gave, or what it raised. Raises `_Died` where it did, of it."""
        try:
            result, error = self.begin().recv()
        except (EOFError, ConnectionResetError) as closed:
            self.end()
            raise _Died from closed
        except BaseException:  # interrupted amid the answer, whose rest would pass for the next one
            self.end(at_once=True)
            raise
        if error is not None:
            raise error
        return result

    def end(self, at_once: bool = False) -> None:
        if self._begun is not None:
            process, ours = self._begun
            self._begun = None
            if at_once:
                process.kill()
            with ours, contextlib.suppress(OSError):  # it may be dead
                ours.send(None)
            process.join()


def _ready(asked: list[Connection]) -> list[Any]:
    """Those of them that have answered, one at least."""
    return asked if len(asked) == 1 else multiprocessing.connection.wait(asked)


def side_by_side() -> int:
    """How many pictures are decoded at once: by half of the cores, since people score meanwhile;
    two at least, as one may wait for its file, and at most eight, whose memory adds up."""
    return min(8, max(2, (os.cpu_count() or 1) // 2))


_END: Any = object()


def _serve(asked: Connection, memory: int) -> None:
    """The work of a child. Its limit is of its own data, not of its shared libraries, and its life
    is tied to its parent's. Where the whole machine runs out of memory, it is this child that the
    system shall end."""
    limit_memory(memory)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    exit_with_parent()
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone: nobody to tell
        while (work := asked.recv()) is not None:
            asked.send_bytes(_outcome(work))


def _outcome(work: Callable[[], Any]) -> memoryview:
    """What the work gave and what it raised, as it is sent."""
    try:
        return ForkingPickler.dumps((work(), None))
    except (BadImage, MemoryError) as error:
        return ForkingPickler.dumps((None, error))
    except Exception as error:
        where = traceback.format_exc()
        try:
            error.add_note(where)
            return ForkingPickler.dumps((None, error))
        except Exception:  # it cannot be sent: what it said can
            return ForkingPickler.dumps((None, RuntimeError(where)))


def _within_cpu_limit(seconds: int, task: Callable[[T], R], item: T) -> R:
    """Run the task with CPU `seconds` to spend; the system kills a child that overspends."""
    limit_cpu(seconds)
    return task(item)
