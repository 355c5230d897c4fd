"""Many runs on the same inputs, shared out over processes; Ctrl-C leaves those that are done."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from tastemaker.processes import exit_with_parent
from tastemaker.processes.systems import beginning_children

Result = TypeVar("Result")
Work = Callable[..., Result]
Job = tuple[Any, ...]


def shared_out(
    work: Work[Result],
    inputs: tuple[Any, ...],
    jobs: Sequence[Job],
    processes: int | None = None,
) -> Iterator[Result]:
    """`work(*inputs, *job)` of every job, in their order, as they get done, each on one thread.

    Shared out over `processes` (default: the cores), which get the inputs once; those and `work`
    must pickle. Broken off by Ctrl-C, what came is of the first jobs.
    """
    if not jobs:
        return
    workers = min(processes or os.cpu_count() or 1, len(jobs))
    if workers == 1:
        with threadpool_limits(1):
            for job in jobs:
                yield work(*inputs, *job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_process, (work, inputs)) as pool:
        yield from _in_order(pool, jobs, workers + 1)


def _in_order(pool: ProcessPoolExecutor, jobs: Sequence[Job], ahead: int) -> Iterator[Any]:
    """The results in the order of the jobs. No more than `ahead` are ever under way: Ctrl-C goes to
    this process, not to the pool's, and waits for those."""
    left = iter(jobs)
    pending: deque[Future[Any]] = deque()
    while True:
        while sum(not future.done() for future in pending) < ahead and (job := next(left, None)):
            with _interrupts_deferred():
                pending.append(pool.submit(_in_process, job))
        if not pending:
            return
        wait([future for future in pending if not future.done()], return_when=FIRST_COMPLETED)
        while pending and pending[0].done():
            yield pending.popleft().result()


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Ctrl-C waits until the end of the block, and a process that begins in here ignores it: the
    mask of its parent is its own. The mask alone would not do, because another thread may take the
    signal, and Python then interrupts the main one while it hands a new process its inputs."""
    deferred: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if in_main:
        signal.signal(signal.SIGINT, lambda number, frame: deferred.append(number))
    try:
        with beginning_children():
            yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, before)
        if deferred:
            signal.raise_signal(signal.SIGINT)


_work: Work[Any]  # of a pool's process
_inputs: tuple[Any, ...]


def _start_process(work: Work[Any], inputs: tuple[Any, ...]) -> None:
    global _work, _inputs
    _work, _inputs = work, inputs
    exit_with_parent()
    threadpool_limits(1)


def _in_process(job: Job) -> Any:
    return _work(*_inputs, *job)
