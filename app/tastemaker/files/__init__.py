"""Files: the content-addressed store, atomic writes, disk space.

A file is known by the SHA-256 of its bytes. What is written is there as a whole or not at all, and
what is published is never overwritten.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import BinaryIO

from tastemaker.errors import Conflict, Invalid, NotWritable, StorageFull
from tastemaker.processes.systems import let_others_read, sync_folder, take_name


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file as 64 hex digits, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Put `content` (bytes, or a function that writes to an open file) at `path`.

    A reader, or a power cut, finds the old file or the new one and never a part: the bytes go to
    a temporary file in the same folder, are flushed to the disk, and take the name in one step.
    """
    with place_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    with _full_disk_named(path):
        try:
            with os.fdopen(handle, "wb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content)
                file.flush()
                let_others_read(file.fileno())  # mkstemp is private; a backup user reads these
                os.fsync(file.fileno())
            with place_named(path):
                Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sweep_unfinished(root: Path, hours: float = 1.0) -> int:
    """Remove what killed processes left half-written below `root`: temporary files and folders that
    nobody has written to for so long. Returns how many."""
    before, swept = time.time() - 3600 * hours, 0
    for leftover in list(root.rglob("*.part")):
        with contextlib.suppress(OSError):  # finished, or swept, by somebody else meanwhile
            if leftover.stat().st_mtime < before:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
                swept += 1
    return swept


def publish_exclusive(temporary: Path, final: Path) -> None:
    """Give a finished file its final name, and fail with `Conflict` if the name is taken.

    A hard link is the one step that both appears at once and refuses to overwrite, so a published
    file stays what it was. The temporary name is removed afterwards.
    """
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    try:
        take_name(temporary, final)
    except FileExistsError:
        raise Conflict(
            f"{final.name} exists already and is never overwritten.",
            "Publish under the next version number.",
        ) from None
    sync_folder(final.parent)
    temporary.unlink(missing_ok=True)


def try_writing(folder: Path) -> None:
    """Write a byte into a folder and leave nothing there. Raises `OSError` where it takes none."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b".")


def free_space(path: Path) -> int:
    """Free bytes on the disk that holds `path` (or will hold it, when it does not exist yet)."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def require_free_space(path: Path, min_gb: float) -> None:
    """Raise `StorageFull` when less than `min_gb` GB are free where `path` lives."""
    free = free_space(path) / 1e9
    if free < min_gb:
        raise StorageFull(
            f"Only {free:.2f} GB are free on the disk of {path}; {min_gb:g} GB are kept free.",
            "Delete something or move TASTEMAKER_HOME to a larger disk. Scoring goes on meanwhile.",
        )


@contextlib.contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFull(
            f"The disk is full: {path.name} was not written and nothing else changed.",
            "Free some space, then try again.",
        ) from error


@contextlib.contextmanager
def place_named(path: Path) -> Iterator[None]:
    """What the disk refuses while something is put at `path` becomes `NotWritable`, or
    `StorageFull`, in a sentence."""
    with _full_disk_named(path):
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise NotWritable(f"{path} cannot be written: {reason}.", ELSEWHERE) from error


ELSEWHERE = "Name a place in another folder."


def require_writable(path: Path) -> None:
    """Raise `NotWritable` if a file cannot be written at `path`, before the work for it is done.
    Folders that are missing would be made; nothing is."""
    with place_named(path):
        if path.is_dir():
            raise NotWritable(f"{path} is a folder.", "Name a file in it.")
        if _is_there(path) and not path.is_file() and not path.is_symlink():
            raise NotWritable(f"{path} is no ordinary file.", ELSEWHERE)
    require_writable_folder(path.absolute().parent, path)


def require_writable_folder(folder: Path, what: Path | None = None) -> None:
    """Raise `NotWritable`, about `what`, if nothing can be written into a folder, which is there or
    would be made."""
    what = what or folder
    with place_named(what):
        there = folder.absolute()
        while not _is_there(there):
            there = there.parent
        if not there.is_dir():
            if there == what.absolute():
                raise NotWritable(
                    f"{what} cannot be written: it is a file, and a folder is needed.",
                    "Name a folder.",
                )
            raise NotWritable(f"{what} cannot be written: {there} is a file.", ELSEWHERE)
        tempfile.TemporaryFile(dir=there).close()


def require_apart(places: Iterable[tuple[str, Path | None]], read: Iterable[Path]) -> None:
    """Raise `Invalid` where two of the places that would be written, each told by the option that
    names it (None: not wanted), are the same, or one of them is `read`."""
    wanted = [(option, place.resolve()) for option, place in places if place is not None]
    for (option, place), (other, theirs) in combinations(wanted, 2):
        if place == theirs:
            raise Invalid(f"{option} and {other} name the same place.", "Choose another place.")
    sources = {path.resolve() for path in read}
    for option, place in wanted:
        if place in sources:
            raise Invalid(f"{option} names the source itself.", "Choose another name.")


def is_file(path: Path) -> bool:
    """Whether a file is there. Unlike `Path.is_file`, no for a name that is too long for one."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Whether a folder is there; no for a name that is too long for one."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_there(path: Path) -> bool:
    """Unlike `Path.exists`, raises for a name that cannot be one, and sees a dangling link."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def content_path(root: Path, sha256: str, suffix: str) -> Path:
    """Where the store keeps a file: `root/ab/cdef….jpg` for the hash `abcdef…`."""
    return root / sha256[:2] / f"{sha256[2:]}{suffix}"


def is_text(name: str) -> bool:
    """Whether it can be stored and printed: file names are bytes, and need not be text at all."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def readable(name: str) -> str:
    """A name that may be no text, as it can be printed and stored."""
    return os.fsencode(name).decode("utf-8", "replace")


def is_bare_name(name: str) -> bool:
    """Whether it names a file of the folder it stands for, and leads nowhere else."""
    return Path(name).name == name and "\\" not in name and name not in ("", "..")


def typed_path(text: str | os.PathLike[str]) -> Path:
    """A path as a person types it: `~` and `~name` are home folders, where there is such a one."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


FORMULA = ("=", "+", "-", "@", "\t", "\r")


def escape_formula(cell: str) -> str:
    """A cell of a CSV file that no spreadsheet takes for a formula."""
    return "'" + cell if cell.startswith(FORMULA) else cell


def unescape_formula(cell: str) -> str:
    """What `escape_formula` made safe, as it was."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA) else cell
