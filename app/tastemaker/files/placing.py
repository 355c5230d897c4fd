"""Pictures put into another folder: planned first, then copied, linked or moved; nothing is
overwritten.

    plan = plan_targets(paths, source, into, keep=False)
    copied = copy_pictures(plan, on_error)

A plan writes nothing, so it is also what a dry run tells. A name that is taken in the folder gets a
number; where the same file lies there already, it is left as it is.
"""

import contextlib
import errno
import filecmp
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tastemaker.errors import Invalid, StorageFull
from tastemaker.files import is_file, require_writable_folder, sync_folder
from tastemaker.processes.systems import hard_link, take_name

OnError = Callable[[str, str], None]  # path, reason


def ignore(path: str, reason: str) -> None:
    """An `OnError` for those who do not want to know."""


@dataclass(frozen=True)
class Placement:
    """A picture, and where it goes. `target` is None where it vanished meanwhile; `there` says that
    the same file lies at the target already."""

    path: str
    origin: Path
    target: Path | None
    there: bool = False

    @property
    def due(self) -> bool:
        """Whether something is to be done for it."""
        return self.target is not None and not self.there


def check_target(source: Path, into: Path) -> None:
    """`Invalid` where the pictures would become part of the source, `NotWritable` where there is no
    room for them."""
    base = (source if source.is_dir() else source.parent).resolve()
    if into.resolve() == base or base in into.resolve().parents:
        raise Invalid("The folder to copy into lies inside the source.", "Choose another one.")
    require_writable_folder(into)


def plan_targets(paths: Iterable[str], source: Path, into: Path, *, keep: bool) -> list[Placement]:
    """The place of each picture, named by its path under the source, in a folder, keeping the
    folder structure or not. Raises `Invalid` where the folder lies inside the source."""
    check_target(source, into)
    base = source if source.is_dir() else source.parent
    return plan_files(
        ((path, base / path, path if keep else Path(path).name) for path in paths), into
    )


def plan_files(files: Iterable[tuple[str, Path, str]], into: Path) -> list[Placement]:
    """The place in a folder of each (path to tell it by, file, name to give it)."""
    taken: dict[Path, Path] = {}  # target -> what goes there
    passed: dict[Path, _Passed] = {}  # by the name that they would all have
    plan = []
    for path, origin, name in files:
        if not is_file(origin):
            plan.append(Placement(path, origin, None))
            continue
        wanted = into / name
        before = passed.setdefault(wanted, _Passed({}, 0))
        size = _size(origin)
        target = next((t for t in before.of_size.get(size, ()) if _same(origin, taken[t])), None)
        there = target is not None
        while target is None:
            number, before.number = before.number, before.number + 1
            name = f"{wanted.stem}-{number}{wanted.suffix}" if number else wanted.name
            free = wanted.with_name(name)
            there = free in taken or os.path.lexists(free)
            content = taken.setdefault(free, free if there else origin)
            before.of_size.setdefault(_size(content), []).append(free)
            if not there or _same(origin, content):
                target = free
        plan.append(Placement(path, origin, target, there))
    return plan


@dataclass
class _Passed:
    """The targets of one name that are taken, by the size of what is there, and the next number:
    a thousand files of one name are not each compared with all before."""

    of_size: dict[int, list[Path]]
    number: int


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link to nowhere
        return -1


def _same(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:  # a folder, a link to nowhere
        return False


def copy_pictures(plan: Sequence[Placement], on_error: OnError = ignore) -> int:
    """Copy what is due, each whole or not at all. Returns how many were."""
    return _place(plan, "copied", on_error, _copy)


def move_pictures(plan: Sequence[Placement], on_error: OnError = ignore) -> int:
    """Move what is due, also to another disk. Returns how many were."""
    return _place(plan, "moved", on_error, _move)


def link_pictures(plan: Sequence[Placement], on_error: OnError = ignore) -> int:
    """Put symbolic links to what is due in its place. Returns how many were."""
    return _place(plan, "linked", on_error, _link)


def _place(
    plan: Sequence[Placement], done: str, on_error: OnError, put: Callable[[Path, Path], object]
) -> int:
    """What is the fault of one picture, or of its name, goes to `on_error`, and the others go on.
    Raises `StorageFull` where the disk is, `Invalid` where the place takes nothing."""
    placed, folders = 0, set[Path]()
    try:
        for item in plan:
            if item.target is None:
                on_error(item.path, f"It was not {done}: it is not there any more.")
            if item.target is None or item.there:
                continue
            try:
                item.target.parent.mkdir(parents=True, exist_ok=True)
                put(item.origin, item.target)
            except _OriginFault as fault:
                on_error(item.path, f"It was not {done}: {fault}.")
                continue
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                if error.errno in OF_THE_NAME or not os.path.lexists(item.origin):
                    on_error(item.path, f"It was not {done}: {reason}.")
                    continue
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise StorageFull(
                        f"The disk is full: {placed:,} of {_due(plan):,} pictures were {done}, "
                        "each whole; the others were left.",
                        "Free some space, then run it again: what is there already stays.",
                    ) from error
                raise Invalid(
                    f"{item.target} cannot be made: {reason}. {placed} pictures were placed "
                    "before.",
                    "Choose another folder, or free the name; those that are placed stay.",
                ) from error
            placed += 1
            folders.add(item.target.parent)
    finally:
        for folder in folders:
            with contextlib.suppress(OSError):  # what was placed is told all the same
                sync_folder(folder)
    return placed


# What a disk says of a name that another disk takes: too long, letters that it does not know.
OF_THE_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


def _due(plan: Sequence[Placement]) -> int:
    return sum(item.due for item in plan)


class _OriginFault(Exception):
    """The file to be placed is gone, cannot be read, or is being written."""


@contextlib.contextmanager
def _of_the_origin() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _OriginFault((error.strerror or str(error)).lower()) from error


def _copy(origin: Path, target: Path) -> None:
    """A whole copy under its name, or nothing; never onto something."""
    with _of_the_origin():
        read = origin.open("rb")
    with read:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
        aside = Path(name)
        try:
            with os.fdopen(handle, "wb") as write:
                _pour(read, write)
            with contextlib.suppress(OSError):  # the target's disk may know no modes, no times
                shutil.copystat(origin, aside)
            take_name(aside, target)
        finally:
            aside.unlink(missing_ok=True)


def _pour(read: BinaryIO, write: BinaryIO) -> None:
    before, size = os.fstat(read.fileno()), 0
    while True:
        with _of_the_origin():
            piece = read.read(2**20)
        if not piece:
            break
        size += write.write(piece)
    write.flush()
    os.fsync(write.fileno())
    if (size, os.fstat(read.fileno()).st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise _OriginFault("it is being written")


def _link(origin: Path, target: Path) -> None:
    with _of_the_origin():
        there = origin.resolve(strict=True)
    target.symlink_to(there)


def _move(origin: Path, target: Path) -> None:
    """Never onto something: a hard link and a copy both refuse a name that is taken."""
    with _of_the_origin():
        is_link = stat.S_ISLNK(origin.lstat().st_mode)
    if is_link:
        _link(origin, target)
    else:
        try:
            hard_link(origin, target)
        except (FileExistsError, FileNotFoundError):
            raise
        except OSError:  # another disk, or one without hard links
            _copy(origin, target)
    try:
        origin.unlink()
    except OSError as error:  # it may not leave its folder: then it lies in one place only
        target.unlink()
        raise _OriginFault((error.strerror or str(error)).lower()) from error
