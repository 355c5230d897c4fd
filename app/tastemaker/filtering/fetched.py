"""Files of other machines that are here while they are worked on.

    for item, folder in brought_here(items, files_of, keep_free_gb): ...

Those of the next item are read meanwhile, so that nobody waits for them; each item's are deleted
after it, so that the disk holds those of two.
"""

import contextlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from tastemaker.errors import StorageFull, TastemakerError, of_the_disk
from tastemaker.files import free_space
from tastemaker.filtering.remote import RemoteFile
from tastemaker.filtering.stores import store_of

PREFIX = "tastemaker-fetched-"
ABANDONED = 60.0  # seconds after which a folder that nobody holds is somebody's who died

T = TypeVar("T")

Needed = Mapping[str, RemoteFile]  # by the path that each is to have in a folder


def brought_here(
    items: Iterable[T], needs: Callable[[T], Needed], keep_free_gb: float
) -> Generator[tuple[T, Path | TastemakerError], None, None]:
    """Each item with the folder that its files are in while it is worked on, or why they are not.
    Meanwhile those of the next one are read, where the disk has room for both. Raises `StorageFull`
    where it has none for one."""
    coming = iter(items)
    item = next(coming, None)
    if item is None:
        return
    gone = threading.Event()
    with _scratch() as scratch, ThreadPoolExecutor(1) as ahead:
        try:
            bring = _Bringing(scratch, keep_free_gb, gone)
            there = bring(needs(item))
            while True:
                if isinstance(there, StorageFull):  # beside the one before; it may be free now
                    there = bring(needs(item))
                if isinstance(there, StorageFull):
                    raise there
                following = next(coming, None)
                soon = None if following is None else ahead.submit(bring, needs(following))
                yield item, there
                if isinstance(there, Path):
                    shutil.rmtree(there, ignore_errors=True)
                if following is None or soon is None:
                    return
                item, there = following, soon.result()
        finally:
            gone.set()


@dataclass
class _Bringing:
    scratch: Path
    keep_free_gb: float
    stopped: threading.Event  # set once nobody wants the rest

    def __call__(self, needed: Needed) -> Path | TastemakerError:
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        try:
            self._require_room(needed)
            for place, file in needed.items():
                into = folder / place
                into.parent.mkdir(exist_ok=True)
                store_of(file.address).copy(file, into, self.stopped)
        except (TastemakerError, OSError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            told = error if isinstance(error, TastemakerError) else of_the_disk(error)
            if told is None:
                raise
            return told
        return folder

    def _require_room(self, needed: Needed) -> None:
        if not needed:
            return
        size = sum(file.size for file in needed.values()) / 1e9
        free = free_space(self.scratch) / 1e9
        if free < size + self.keep_free_gb:
            first = next(iter(needed.values())).address
            raise StorageFull(
                f"{first} takes {size:.2f} GB while it is scored, and {free:.2f} GB are free on "
                f"the disk of {self.scratch.parent}; {self.keep_free_gb:g} GB are kept free.",
                "Free some space, or name a folder of a larger disk in TMPDIR. What was scored "
                "before is safe.",
            )


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder that is deleted after, and by the next run where this process is killed: it is held
    by a lock that ends with the process."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        lock = FileLock(Path(name, "lock"))
        with lock:
            yield Path(name)


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):  # somebody else's, or held
            if not folder.is_symlink() and time.time() - folder.stat().st_mtime > ABANDONED:
                with FileLock(folder / "lock", timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
