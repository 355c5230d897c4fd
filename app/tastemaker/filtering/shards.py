"""Pictures in tar shards (webdataset) and zips, read one after another, never unpacked to the disk.

    shards = Shards(archives_of(Path("shards")), Limits())
    for name, content in shards.pictures(): ...

No name in an archive is used as a path, and nothing it claims about a size is believed. A member
that cannot be had is named with its reason and the others follow; where an archive itself is
damaged, the next one follows.
"""

import contextlib
import gzip
import itertools
import re
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from tastemaker.errors import BadImage, Incomplete, Invalid, NotFound
from tastemaker.files import is_file, is_text, readable
from tastemaker.files.folders import FolderWalk, lies_in_system
from tastemaker.importing.archives import PIECE, READABLE, ArchiveLimits, clean_name, open_zip
from tastemaker.pictures.formats import IMAGE_SUFFIXES
from tastemaker.pictures.pictures import Limits

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
SHARD_SUFFIXES = (*TAR_SUFFIXES, ".zip", ".cbz")
BESIDE = frozenset({".txt", ".json", ".cls", ".npy", ".parquet"})  # what else a sample may hold
UNPACKED = ArchiveLimits()
BLOCK = tarfile.BLOCKSIZE
OUTSIDE = "Its name leads out of the archive, so it was not read."
OF_ANOTHER_KIND = "It is a link or a device, not a picture."

Named = tuple[str, Path]  # as rows are told, where it lies
Picture = tuple[str, bytes | BadImage]  # the name of a member in its archive, what it holds


def is_shard(path: PurePath) -> bool:
    return path.name.lower().endswith(SHARD_SUFFIXES)


def is_pattern(source: Path) -> bool:
    """Whether it names files by `*`, `?`, `[…]` or `{000..127}`, and is none itself."""
    return bool(re.search(r"[*?\[{]", str(source))) and not is_file(source) and not source.is_dir()


def archives_of(source: Path) -> list[Named]:
    """The archives of a folder and its folders, of a pattern, or the one, sorted by name; those of
    a pattern that are no archives are refused. Empty where a folder holds none."""
    if source.is_dir():
        return archives_below(FolderWalk(source, lambda suffix: True))
    if not is_pattern(source):
        return [(source.name, source)]
    base, paths = matching(source)
    if others := [path for path in paths if not is_shard(path)]:
        raise no_archive(others[0])
    return [(path.relative_to(base).as_posix(), path) for path in paths]


def no_archive(name: object) -> Invalid:
    """What is said of a file that a pattern names."""
    return Invalid(
        f"{name} is neither a tar nor a zip.",
        f"A pattern names archives ({', '.join(SHARD_SUFFIXES)}) or files of embeddings (.npy, "
        ".npz, .parquet), and not both.",
    )


def archives_below(walk: FolderWalk) -> list[Named]:
    """Those of a folder that is gone through, and of its folders."""
    found = sorted(path for path in walk.files() if is_shard(path))
    return [(path.relative_to(walk.root).as_posix(), path) for path in found]


def matching(pattern: Path) -> tuple[Path, list[Path]]:
    """The folder before the first part that is a pattern, and the files it names, sorted. Raises
    `NotFound` where there is none, and for a number that a range names and that is not there: half
    a set is seldom meant."""
    base, paths = _fixed_part(pattern), set[Path]()
    for text in ranges(str(pattern)):
        found = list(base.glob(_shell_pattern(Path(text).relative_to(base))))
        if not found and text != str(pattern):
            raise NotFound(f"There is no file {text}.", "Check the range in braces.")
        paths.update(path for path in found if path.is_file())
    if not paths:
        raise NotFound(f"No file is named like {pattern}.", "Check the pattern.")
    return base, sorted(paths)


def _shell_pattern(pattern: Path) -> str:
    """As shells read it: two asterisks that are not alone between slashes mean one."""
    return "/".join(part if part == "**" else re.sub(r"\*+", "*", part) for part in pattern.parts)


def ranges(text: str) -> Iterator[str]:
    """“a-{08..10}.tar” as a-08.tar, a-09.tar, a-10.tar, as shells and webdataset read it."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if found is None:
        yield text
        return
    first, last = found.groups()
    if int(last) - int(first) > 1_000_000:
        raise Invalid(f"{found.group()} names more than a million files.", "Split the range.")
    for number in range(int(first), int(last) + 1):
        yield from ranges(f"{text[: found.start()]}{number:0{len(first)}}{text[found.end() :]}")


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first part that is a pattern."""
    fixed = itertools.takewhile(lambda part: not re.search(r"[*?\[{]", part), pattern.parts)
    return Path(*fixed)


class Shards:
    """Archives to be gone through once. `left_out` counts what is no picture, `progress` tells how
    far one is: a share of the bytes of all archives. Of the names in `only`, where it is given, the
    pictures are read and of no others."""

    def __init__(
        self, archives: Iterable[Named], limits: Limits, only: Container[str] | None = None
    ) -> None:
        self._archives = list(archives)
        self._limits, self._only = limits, only
        self._name = ""  # of the present one
        self._bytes = sum(_size(path) for _, path in self._archives)
        self._passed = 0  # bytes of the archives that are done
        self._at = 0  # in the present one
        self.left_out: Counter[str] = Counter()

    @property
    def progress(self) -> float:
        """0–1, of what was read."""
        return min(1.0, (self._passed + self._at) / max(1, self._bytes))

    def pictures(self) -> Iterator[Picture]:
        """(“shard.tar/key.jpg”, its bytes or why there are none) in the order they lie there. What
        is wrong with an archive itself is told under its own name, as `Incomplete`."""
        for name, path in self._archives:
            if not is_text(name):
                yield readable(name), Incomplete("Its name is not in UTF-8; rename it.")
                self._passed += _size(path)
                continue
            self._name = name
            members = self._zipped(path) if _is_zip(path) else self._tarred(path)
            last = ""
            try:
                for member, content in members:
                    last = member
                    yield f"{name}/{member}", content
            except _Stopped as stopped:
                after = f" after {last}" if last else ""
                reason = f"The archive {stopped}{after}; what follows in it was not read."
                yield name, Incomplete(reason)
            self._passed += _size(path)
            self._at = 0

    def _wanted(self, member: str, shown: str) -> str | None:
        """Why a member cannot be a picture that is scored: empty where it can, None where nobody
        would look for it."""
        if self._only is not None and f"{self._name}/{shown}" not in self._only:
            return None
        suffix = PurePosixPath(shown).suffix.lower()
        if lies_in_system(shown):
            self.left_out["hidden or system file"] += 1
            return None
        if suffix not in IMAGE_SUFFIXES:
            if suffix not in BESIDE:
                self.left_out[suffix or "file without an ending"] += 1
            return None
        if _leads_outside(member):
            return OUTSIDE
        return "" if is_text(member) else "Its name is not in UTF-8; rename it."

    def _too_large(self) -> str:
        return f"The file has more than the {self._limits.bytes / 2**20:.0f} MB allowed."

    # --- tar -------------------------------------------------------------------------------------

    def _tarred(self, path: Path) -> Iterator[Picture]:
        with _stopping(), path.open("rb") as file:
            stream = _TarBytes(file, path, self._limits.bytes)
            with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]  # it only reads
                while (member := _next(archive)) is not None:
                    self._at = file.tell()
                    shown = clean_name(member.name)
                    if member.isdir():
                        continue
                    reason = self._wanted(member.name, shown)
                    if reason is None:
                        continue
                    if not reason and (not member.isreg() or member.issparse()):
                        reason = OF_ANOTHER_KIND
                    if not reason and member.size > self._limits.bytes:
                        reason = self._too_large()
                    yield shown, BadImage(reason) if reason else _content(stream, member)
                _check_end(stream, archive.offset)

    # --- zip -------------------------------------------------------------------------------------

    def _zipped(self, path: Path) -> Iterator[Picture]:
        size = _size(path)
        budget = min(UNPACKED.total_bytes, int(UNPACKED.ratio * size) + PIECE)
        with _stopping(), open_zip(path, UNPACKED, ()) as archive:
            members = [member for member in archive.infolist() if not member.filename.endswith("/")]
            for done, member in enumerate(members):
                self._at = size * done // len(members)
                shown = clean_name(member.filename)
                reason = self._wanted(member.orig_filename, shown)
                if reason is None:
                    continue
                reason = reason or self._why_not_unzipped(member)
                if reason:
                    yield shown, BadImage(reason)
                    continue
                if member.file_size > budget:
                    raise _Stopped("unpacks to far more than pictures would")
                budget -= member.file_size
                yield shown, _unzipped(archive, member)

    def _why_not_unzipped(self, member: zipfile.ZipInfo) -> str:
        if stat.S_ISLNK(member.external_attr >> 16):
            return OF_ANOTHER_KIND
        if member.flag_bits & 0x1:
            return "It is encrypted."
        if member.compress_type not in READABLE:
            return "It is packed by a method other than deflate."
        if member.file_size > self._limits.bytes:
            return self._too_large()
        if member.file_size > UNPACKED.ratio * member.compress_size + PIECE:
            return "It unpacks to far more than a picture would."
        return ""


def _is_zip(path: Path) -> bool:
    return not path.name.lower().endswith(TAR_SUFFIXES)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if is_file(path) else 0
    except OSError:  # it is gone since
        return 0


def _leads_outside(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return (not parts[0] and len(parts) > 1) or ".." in parts or parts[0].endswith(":")


def _unzipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | BadImage:
    try:
        with archive.open(member) as file:  # its `read()` would unpack beyond the size that it has
            content = file.read(member.file_size)
    except MemoryError:
        raise
    except Exception:  # a wrong checksum, bad deflate data, an offset below zero …
        return BadImage("It is damaged inside the archive.")
    return content if len(content) == member.file_size else BadImage("It is cut short.")


class _Stopped(Exception):
    """Why an archive cannot be read on, as the end of a sentence about it."""


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """What hostile or damaged bytes raise (nearly anything) becomes `_Stopped`."""
    try:
        yield
    except (_Stopped, MemoryError):
        raise
    except Invalid as error:
        raise _Stopped(f"cannot be read ({error.message.rstrip('.')})") from error
    except EOFError as error:
        raise _Stopped("is cut short") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise _Stopped(f"cannot be read ({(error.strerror or '').lower()})") from error
        cut = "unexpected end" in str(error)
        raise _Stopped("is cut short" if cut else "is damaged") from error


class _TarBytes:
    """The bytes of a tar, unpacked where it is packed, that only go forward, but for a block.

    `tarfile` reads some headers in one gulp of whatever size they claim, and what is packed may
    unpack to any size: both end here.
    """

    def __init__(self, file: BinaryIO, path: Path, most: int) -> None:
        self._raw, self._most = file, most + PIECE
        self._packed = path.suffix.lower() != ".tar"
        self._file = cast(IO[bytes], gzip.GzipFile(fileobj=file) if self._packed else file)
        self._at = self._back = 0  # bytes read, and how far back of that one stands
        self._last = b""  # the end of what was read

    def tell(self) -> int:
        return self._at - self._back

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > self._most:
            raise _Stopped("claims more than pictures need")
        again = self._last[len(self._last) - self._back :][:size]
        self._back -= len(again)
        content = self._file.read(size - len(again))
        self._at += len(content)
        self._last = (self._last + content if len(content) < BLOCK else content)[-BLOCK:]
        if self._packed and self._at > UNPACKED.ratio * self._raw.tell() + PIECE:
            raise _Stopped("unpacks to far more than pictures would")
        return again + content

    def seek(self, to: int) -> int:
        if to < self._at - len(self._last):  # a size below zero would lead round for ever
            raise _Stopped("is damaged")
        if 0 <= self._at - to <= len(self._last):
            self._back = self._at - to
        elif not self._packed:
            self._file.seek(to)
            self._at, self._back, self._last = to, 0, b""
        else:
            while self.tell() < to and self.read(min(PIECE, to - self.tell())):
                pass
        return self.tell()


def _next(archive: Any) -> tarfile.TarInfo | None:
    """The next member; those before are forgotten, which `tarfile` would keep."""
    member: tarfile.TarInfo | None = archive.next()
    archive.members = []
    return member


def _content(stream: _TarBytes, member: tarfile.TarInfo) -> bytes:
    stream.seek(member.offset_data)
    content = stream.read(member.size)
    if len(content) < member.size:
        raise _Stopped("is cut short")
    return content


def _check_end(stream: _TarBytes, offset: int) -> None:
    """`tarfile` takes a damaged header for the end; the end is a block of zeros."""
    stream.seek(offset)
    block = stream.read(BLOCK)
    if len(block) < BLOCK:
        raise _Stopped("is cut short")
    if block.strip(b"\0"):
        raise _Stopped("is damaged")
