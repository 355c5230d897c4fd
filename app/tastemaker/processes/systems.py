"""What one system can and another cannot, in one place: POSIX, and Windows without the half of it.

Every function does the same everywhere, or as much of it as there is; nothing is missed at import.
What is weaker where a system lacks something, its docstring says.
"""

import contextlib
import ctypes
import errno
import math
import multiprocessing.util
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext
    from multiprocessing.process import BaseProcess

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]  # a module, to mypy

QUIET = "ignore::UserWarning:multiprocessing.resource_tracker"
# Options of glibc's `mallopt`.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# A socket’s path has at most 107 bytes, of which its name, `/listener-12345678`, takes 18.
_MOST_BYTES_OF_SOCKET_FOLDER = 89
WATCHED_EVERY = 1.0  # seconds between two looks at the time that a process has used


# --- files ---------------------------------------------------------------------------------------

# For `os.open`: never to wait for the other end of a pipe, and bytes as they are.
READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def hard_link(origin: Path, target: Path) -> None:
    """A second name for a file, which appears at once and never in the place of another. Raises
    `OSError` where the system or the disk has no such thing, `FileExistsError` where the name is
    taken."""
    if not hasattr(os, "link"):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP), str(target))
    os.link(origin, target)


def take_name(aside: Path, target: Path) -> None:
    """Give a finished file its name. A hard link refuses a name that is taken, and leaves the file
    aside; without one the file is renamed, and of two that do so at the same moment one may lose.
    Raises `FileExistsError`."""
    try:
        hard_link(aside, target)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        aside.rename(target)


def sync_folder(folder: Path) -> None:
    """Flush a folder, so that a new name in it survives a power cut; where the disk knows no such
    thing, as some sticks and shares do not, or the system opens no folders, nothing."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        if os.name == "posix":
            raise
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def sync_everything() -> None:
    """Flush all that was written, where there is one call for it; tens of thousands of files are
    not flushed one by one."""
    if hasattr(os, "sync"):
        os.sync()


def let_others_read(descriptor: int) -> None:
    """Give an open file of our own the usual rights; a stick, a share or a system may know none."""
    with contextlib.suppress(OSError, AttributeError):
        os.fchmod(descriptor, 0o644)


# --- processes -----------------------------------------------------------------------------------


def children_with(modules: Sequence[str]) -> "ForkServerContext | SpawnContext":
    """How this process begins its children: on Linux as copies of a small process that has imported
    `modules` once, which takes milliseconds instead of seconds; elsewhere, and where the sockets
    for that find no place, each imports what it needs. Whatever the modules start in threads of
    theirs, a copy lacks."""
    if sys.platform != "linux" or not _place_for_sockets():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context


def _place_for_sockets() -> bool:
    """Whether there is a temporary folder for them whose path is not too long. It goes when this
    process ends, and children that come after it keep theirs there too: one that is ended at once
    would leave its own."""
    try:
        folder = os.fsencode(multiprocessing.util.get_temp_dir())
    except OSError:
        return False
    return len(folder) <= _MOST_BYTES_OF_SOCKET_FOLDER


def be_nice(niceness: int) -> None:
    """Yield to other processes, where the system knows by how much."""
    with contextlib.suppress(AttributeError, OSError):
        os.nice(niceness)


def be_nicer_in_this_thread(niceness: int) -> None:
    """The same for the thread that calls, on Linux."""
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.nice(0) + niceness)


def die_at_once() -> None:
    """End this process as a power cut would: nothing is flushed, nothing is told."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def limit_memory(size: int) -> None:
    """Limit the data of this process to so many bytes, and leave no core behind. Where the whole
    machine runs out, it is this one that the system shall end. Windows has no such limit: there a
    picture of many pixels is refused by its header alone."""
    with contextlib.suppress(OSError):  # Linux alone has it
        Path("/proc/self/oom_score_adj").write_text("1000")
    if resource is None:
        return
    with contextlib.suppress(OSError, ValueError):  # macOS knows the one and refuses the other
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def keep_freed_memory() -> None:
    """Let this process keep what it frees for what it needs next. Tensors of some megabytes glibc
    returns to the system and takes anew, page by page, for every batch: up to a third of a small
    network's time. For a process of our own that computes, not for one that we are guests in."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another system
        mallopt = ctypes.CDLL(None).mallopt
        for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            mallopt(option, 2**30)
        mallopt(_M_ARENA_MAX, 1)  # those of threads are of pieces of 64 MB, which come and go


def limit_cpu(seconds: int) -> None:
    """From now on this process has so many seconds of processor time to spend, and is ended when it
    overspends them. Called again, it begins anew."""
    if resource is None:
        _watch(time.process_time() + seconds)
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used) + seconds, hard))


_spent_at = math.inf
_watcher: threading.Thread | None = None


def _watch(spent_at: float) -> None:
    """What the system does elsewhere, by a thread of this process: a decoder lets it run."""
    global _spent_at, _watcher
    _spent_at = spent_at
    if _watcher is None:
        _watcher = threading.Thread(target=_end_when_spent, daemon=True)
        _watcher.start()


def _end_when_spent() -> None:
    while time.process_time() < _spent_at:
        time.sleep(WATCHED_EVERY)
    os._exit(1)


def begin(process: "BaseProcess") -> None:
    """Start a child of `multiprocessing` that no Ctrl-C reaches, not even while it imports: that is
    for its parent, which ends its children. Raises `OSError` where the system has no process left,
    or the one is gone that this would be a copy of."""
    try:
        with beginning_children():
            process.start()
    except EOFError as error:
        raise OSError(errno.ECHILD, "what makes its processes has ended") from error


@contextlib.contextmanager
def beginning_children() -> Iterator[None]:
    """Children of `multiprocessing` that begin here get no Ctrl-C. Its helper begins with the first
    of them and lets the signal through again: so it begins before, and in silence, since it would
    warn of semaphores that a child left which was ended at once, and which it takes away."""
    if hasattr(signal, "pthread_sigmask"):
        if QUIET not in sys.warnoptions:
            sys.warnoptions.append(QUIET)  # the helper gets the options of this process
        resource_tracker.ensure_running()
    with interrupts_blocked():
        yield


def join_or_kill(process: "BaseProcess", seconds: float) -> None:
    """Wait so long for the end of a child, then end it."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """This thread, and processes that begin in it, get no Ctrl-C, where signals can be blocked."""
    block = getattr(signal, "pthread_sigmask", None)
    if block is not None:
        block(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if block is not None:
            block(signal.SIG_UNBLOCK, {signal.SIGINT})
