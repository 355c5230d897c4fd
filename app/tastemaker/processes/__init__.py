"""The life of a process beside others: it yields to what people wait for, ends with its parent,
and dies at a failpoint that a test names."""

import gc
import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

from tastemaker.processes.systems import be_nice, die_at_once, keep_freed_memory

NICENESS = 5  # people wait for the web process first, then for the live model, last for a job
JOB_NICENESS = 10

_failpoint = os.environ.get("TASTEMAKER_FAULT", "")


def named(function: str) -> Any:
    """The function `package.module:name`. Its module is imported now: what begins a process by the
    name of its work loads nothing of that itself."""
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)


def call(function: str, *arguments: object) -> Any:
    """Call a function by its name. The entry point of a process that is spawned for it."""
    return named(function)(*arguments)


def lower_priority(niceness: int = NICENESS) -> None:
    """Make this process a good background one: it yields to the web process, which people wait
    for, and ends when its parent ends, even if that was killed."""
    be_nice(niceness)
    exit_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which then ends us


@contextmanager
def loading() -> Iterator[None]:
    """While libraries are imported nothing becomes garbage, and looking for it takes a tenth of the
    time. Afterwards what is in memory stays until the end, so the collector is spared it: a full
    collection goes through 200,000 objects of the libraries, and the request that it falls into
    waits 0.2 s. What is garbage by then stays as well: some megabytes, which it would take as long
    to find. So a process may do this a few times, and before it serves anything."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def one_thread_for_products() -> None:
    """Let this process multiply matrices in one thread. What the pages multiply takes a few
    milliseconds; a second thread saves none of them, spins while it waits for its next task, and
    where others have the processor, the product waits 0.1 s and more for it to get its turn."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def ready_to_compute(threads: int = 0) -> None:
    """Let this process compute with torch, in so many threads (0: as many as torch takes), and keep
    the memory that it frees on the way."""
    import torch

    keep_freed_memory()
    torch.set_num_threads(threads or torch.get_num_threads())


def exit_with_parent() -> None:
    """Call once in a child of `multiprocessing`: a thread of it waits for the parent's end."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def failpoint(name: str) -> None:
    """Die here, as in a power cut, if `TASTEMAKER_FAULT` has this name: for the crash tests.
    Without that variable a failpoint does nothing."""
    if _failpoint and name == _failpoint:
        die_at_once()
