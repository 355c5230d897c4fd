"""A zip from outside, unpacked without believing a word of it.

No name in the archive is ever used as a path: each member is stored under a number, and its own
name is kept as data. What a member claims about its size is ignored; bytes are counted as they
come out. An archive that looks like an attack is refused whole and leaves nothing behind; a
single useless or damaged member is skipped with its reason.
"""

import contextlib
import errno
import io
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tastemaker.errors import Conflict, Invalid, StorageFull
from tastemaker.files.folders import lies_in_system
from tastemaker.files.roots import Roots, open_within
from tastemaker.pictures.formats import IMAGE_SUFFIXES

SIDECAR_SUFFIXES = frozenset({".txt", ".json", ".xmp"})
MEMBER_SUFFIXES = IMAGE_SUFFIXES | SIDECAR_SUFFIXES | {".npy"}
ARCHIVE_SUFFIXES = frozenset(
    f".{suffix}" for suffix in ("zip", "7z", "rar", "tar", "gz", "tgz", "bz2", "xz", "zst", "cbz")
)
READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # LZMA may claim gigabytes of dictionary
PIECE = 2**20


@dataclass(frozen=True)
class ArchiveLimits:
    """What one archive may hold: members, bytes per member and in all once unpacked, bytes of its
    directory (which is read in one go), and unpacked ÷ packed bytes (pictures are about 1)."""

    entries: int = 200_000
    entry_bytes: int = 200 * 2**20
    total_bytes: int = 50 * 2**30
    directory_bytes: int = 32 * 2**20
    ratio: float = 100.0


@dataclass(frozen=True)
class Unpacked:
    """`files`: (where it is stored, its name inside the archive as a clean relative path), several
    of one name where the archive holds several. `skipped`: (name inside the archive, reason) of
    those that cannot be had; `unwanted`: the same of those that nobody would look for."""

    files: list[tuple[Path, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    unwanted: list[tuple[str, str]] = field(default_factory=list)


def unpack(
    archive: Path, into: Path, limits: ArchiveLimits | None = None, roots: Roots = ()
) -> Unpacked:
    """Store the pictures, sidecars and vectors of a zip in the new folder `into`.

    Members that differ only in their suffix keep a common stem (`000007.jpg`, `000007.txt`), so
    that a sidecar still stands beside its picture. Raises `Invalid` if the archive is refused or
    lies outside of the `roots`, and `StorageFull` if the disk is full; `into` is then gone again.
    """
    limits = limits or ArchiveLimits()
    try:
        into.mkdir(parents=True)
    except FileExistsError:
        raise Conflict(f"The folder {into} exists already.", "Unpack into a new one.") from None
    try:
        with open_zip(archive, limits, roots) as file:
            return _unpack_members(file, into, limits, archive.stat().st_size)
    except BaseException as error:
        shutil.rmtree(into, ignore_errors=True)
        if _disk_is_full(error):
            raise StorageFull(
                f"The disk is full: {archive.name} was not unpacked.",
                "Free some space, then add it again.",
            ) from error
        raise


def _disk_is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


class _CappedFile(io.FileIO):
    """A file that refuses to be read in gulps above `cap`, because `zipfile` reads the whole
    directory of an archive in one, of whatever size the archive says."""

    cap = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            here = self.tell()
            size = self.seek(0, io.SEEK_END) - here
            self.seek(here)
        if size > self.cap:
            raise Invalid("The archive's directory is too large.", "Split it into smaller ones.")
        return super().read(size) or b""


@contextlib.contextmanager
def open_zip(archive: Path, limits: ArchiveLimits, roots: Roots) -> Iterator[zipfile.ZipFile]:
    """A zip whose directory, which is read at once, is within the limits and that lies in one of
    the `roots`. Raises `Invalid` for any other, and for what is no zip."""
    try:
        with open_within(archive, roots) as opened:
            file = _CappedFile(os.dup(opened.fileno()))
    except OSError as error:
        raise Invalid(f"{archive.name} cannot be read: {error.strerror}.") from error
    with file:
        file.cap = max(limits.directory_bytes, 2 * PIECE)
        looks_like_zip = file.read(4) == b"PK\x03\x04"
        try:
            members = zipfile.ZipFile(file)
        except Invalid:
            raise
        except Exception as error:  # hostile bytes make zipfile raise nearly anything
            if looks_like_zip:
                raise Invalid(
                    "The archive is cut short or damaged: its directory is missing.",
                    "Add the archive again.",
                ) from error
            raise Invalid(
                "This is not a zip archive.", "Add a .zip, a folder or the files."
            ) from error
        with members:
            yield members


def _unpack_members(
    archive: zipfile.ZipFile, into: Path, limits: ArchiveLimits, packed_bytes: int
) -> Unpacked:
    # Not `is_dir()`, which stumbles over a member without a name.
    members = [member for member in archive.infolist() if not member.filename.endswith("/")]
    if len(members) > limits.entries:
        raise Invalid(
            f"The archive holds {len(members):,} files, more than the {limits.entries:,} allowed.",
            "Split it into smaller ones.",
        )
    for member in members:
        _refuse_suspicious(member)

    result = Unpacked()
    numbers: dict[str, int] = {}
    # The whole may not grow beyond the ratio either: overlapping members each claim the same
    # packed bytes, and only the size of the file itself is beyond doubt.
    budget = min(limits.total_bytes, int(limits.ratio * packed_bytes) + PIECE)
    for member in members:
        name = clean_name(member.filename)
        if reason := _why_unwanted(name):
            result.unwanted.append((name or member.filename, reason))
            continue
        if member.compress_type not in READABLE:
            result.skipped.append((name, "It is packed by a method other than deflate."))
            continue
        stored = _free_place(into, name, numbers)
        try:
            size = _copy(archive, member, stored, limits, budget)
        except _MemberTooLarge:
            reason = f"It has more than the {limits.entry_bytes / PIECE:.0f} MB allowed."
        except (Invalid, MemoryError):
            raise
        except Exception as error:  # a wrong checksum, bad deflate data, an offset below zero …
            if _disk_is_full(error):
                raise
            reason = "It is damaged inside the archive."
        if reason:
            stored.unlink(missing_ok=True)
            result.skipped.append((name, reason))
            continue
        budget -= size
        result.files.append((stored, name))
    return result


def _refuse_suspicious(member: zipfile.ZipInfo) -> None:
    """Refuse an archive for what one of its members is."""
    name = clean_name(member.filename) or "a member"
    if member.flag_bits & 0x1:
        raise Invalid(
            f"The archive is encrypted (“{name}”).", "Unpack it yourself and add the folder."
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise Invalid(
            f"“{name}” in the archive is a link to another place.", "Pack the files themselves."
        )
    if PurePosixPath(name).suffix.lower() in ARCHIVE_SUFFIXES:
        raise Invalid(f"“{name}” is an archive inside the archive.", "Unpack it and add its files.")


def clean_name(name: str) -> str:
    """A member's name as a relative path of plain parts, '' if nothing is left.

    It is never used to write; but people see it, and its folders may carry scores
    (`07_good/a.jpg`).
    """
    printable = "".join(c for c in name.split("\0")[0] if c.isprintable())
    parts = printable.replace("\\", "/").split("/")
    return "/".join(p for p in parts if p not in ("", ".", "..") and not p.endswith(":"))


def _why_unwanted(name: str) -> str:
    path = PurePosixPath(name)
    if lies_in_system(name):
        return "it is a note of the operating system, not a picture"
    if path.suffix.lower() not in MEMBER_SUFFIXES:
        return "it is neither a picture nor a sidecar (.txt, .json, .xmp) nor a vector (.npy)"
    return ""


def _free_place(into: Path, name: str, numbers: dict[str, int]) -> Path:
    """A generated path for the member. `numbers` remembers the number of every stem so far."""
    path = PurePosixPath(name)
    stem, suffix = str(path.with_suffix("")), path.suffix.lower()
    number = numbers.get(stem, len(numbers) + 1)
    if (into / f"{number:06d}{suffix}").exists():  # an archive may hold the same name twice
        number = len(numbers) + 1
        stem = f"{stem}\0{number}"
    numbers[stem] = number
    return into / f"{number:06d}{suffix}"


class _MemberTooLarge(Exception):
    pass


def _copy(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    stored: Path,
    limits: ArchiveLimits,
    budget: int,
) -> int:
    """Stream one member to its place; its size in bytes. At most one piece beyond a limit is ever
    unpacked, and that piece is not written."""
    allowed_by_ratio = limits.ratio * member.compress_size + PIECE
    size = 0
    with archive.open(member) as source, stored.open("xb") as target:
        while piece := source.read(PIECE):
            size += len(piece)
            if size > allowed_by_ratio or size > budget:
                raise Invalid(
                    "The archive unpacks to far more than a collection of pictures would "
                    f"(at “{clean_name(member.filename)}”), so it was refused.",
                    "Add the folder itself if you trust it.",
                )
            if size > limits.entry_bytes:
                raise _MemberTooLarge
            target.write(piece)
    return size
