"""Backups: everything a person made, in one file, and the way back.

A backup is a zip, nothing in it compressed (pictures are already): the database, copied first by
SQLite's online backup while the program runs; then the files that its rows speak of, which are
written once and never changed, so that whatever the copy knows is still there to be read; last the
SHA-256 of each in `manifest.json`. It is read back against these before it gets its name.

Restoring reads everything into a folder of its own, checks it, puts the files in place, and only
then swaps the database, in one step. What stood there before is kept among the backups.
"""

import hashlib
import json
import lzma
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tastemaker.config import Settings
from tastemaker.database.backup_checks import (
    DATABASE,
    FOLDERS,
    MANIFEST,
    belongs,
    refuse_a_bomb,
    refuse_others,
)
from tastemaker.database.migration import back_up_database, migrate, revisions
from tastemaker.database.sessions import sqlite
from tastemaker.database.tables import now
from tastemaker.errors import Conflict, Invalid, NotFound, StorageFull
from tastemaker.files import free_space, is_file, sha256_of, sync_folder
from tastemaker.files.json_text import json_text
from tastemaker.processes import failpoint
from tastemaker.processes.systems import sync_everything, take_name

NIGHTLY = "nightly-"
NIGHTS_KEPT = 3
PIECE = 1 << 20  # bytes read at a time
NOTES = (".xmp", ".json")  # of other programs, beside uploads
HEADER = b"SQLite format 3\x00"
# Encrypted, packed in a way that is not known, or cut in a way that zipfile does not look for.
UNPACKABLE = (RuntimeError, EOFError, zlib.error, lzma.LZMAError)

Report = Callable[[int, int], None]  # bytes done, bytes in all
Progress = Callable[[int], object]  # bytes done


@dataclass(frozen=True)
class Backup:
    """What lies in a backup; `damaged` were not what their hash says before it was made."""

    path: Path
    made_at: datetime
    files: int
    bytes: int
    scores: int
    damaged: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Restored:
    """What came back, and where that lies which it replaced (None: there was nothing)."""

    made_at: datetime | None
    files: int
    scores: int
    replaced: Path | None


# --- out ---------------------------------------------------------------------------------------


def back_up(settings: Settings, target: Path | None = None, report: Report | None = None) -> Backup:
    """Write a backup to `target` (a new file; default: among the backups, named by the time) while
    the program may be running.

    Raises `Invalid` for a database that is not the home folder's own, `Conflict` if the file
    exists, `StorageFull` when it would leave too little space or the disk takes no more.
    """
    _require_in_home(settings, "pg_dump")
    made_at = now()
    target = target or settings.backups / f"tastemaker-{made_at:%Y%m%d-%H%M%S}.zip"
    if target.exists():
        raise Conflict(f"{target} exists already; nothing was written.", "Name another file.")
    if not target.absolute().parent.is_dir():
        raise NotFound(f"There is no folder {target.absolute().parent}.", "Make it first.")
    with _own_folder(settings, "backup-") as folder:
        copy = folder / DATABASE
        _require_space(settings, settings.root, _database_bytes(settings))
        back_up_database(settings.root / DATABASE, copy)
        scores, staged = _inspect(copy)
        parts = {DATABASE: copy} | dict(_files(settings, staged))
        total = sum(path.stat().st_size for path in parts.values() if path.exists())
        _require_space(settings, target, total)
        temporary = target.absolute().with_name(f".{target.name}.part")
        try:
            both = 2 * total  # written, then read back
            hashes = _write(temporary, parts, made_at, lambda done: report and report(done, both))
            _read_back(temporary, hashes, lambda done: report and report(total + done, both))
            temporary.rename(target)  # no link: sticks and shares know none
        except OSError as error:
            raise StorageFull(
                f"{target} could not be written: {(error.strerror or str(error)).lower()}. Nothing "
                "else was changed.",
                "Name a file on another disk.",
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
    damaged = [name for name, sha256 in hashes.items() if not _matches_its_name(name, sha256)]
    return Backup(target, made_at, len(hashes) - 1, target.stat().st_size, scores, damaged)


def _require_in_home(settings: Settings, tool: str) -> None:
    if not settings.database_in_home:
        raise Invalid(
            "TASTEMAKER_DATABASE_URL names a database that is not the one in the home folder; only "
            "that is backed up and restored here.",
            f"Use its own tools (PostgreSQL: {tool}; an SQLite file: copy it while nothing runs), "
            f"and copy the folder {settings.root} along with it.",
        )


def nightly_backup(settings: Settings, hours: float = 24.0) -> Path | None:
    """Copy the database to the backups if it holds scores, the newest such copy is older than that
    and something was written since; the last few are kept. None where there was nothing to do, or
    no space for it. Raises `Invalid` for a damaged database, which pushes no good copy out."""
    source = settings.root / DATABASE
    if not settings.database_in_home or not source.exists():
        return None
    copies = sorted(settings.backups.glob(f"{NIGHTLY}*.db"))
    if copies:
        last = copies[-1].stat().st_mtime
        written = max(path.stat().st_mtime for path in settings.root.glob(f"{DATABASE}*"))
        if now().timestamp() - last < 3600 * hours or written < last:
            return None
    if free_space(settings.root) < _database_bytes(settings) + 1e9 * settings.min_free_gb:
        return None
    copy = settings.backups / f"{NIGHTLY}{now():%Y%m%d-%H%M%S}.db"
    temporary = copy.with_name(f".{copy.name}.part")
    try:
        back_up_database(source, temporary)
        scores, _ = _inspect(temporary, check=True)
        if not scores:
            return None
        temporary.replace(copy)
    finally:
        temporary.unlink(missing_ok=True)
    for old in copies[: max(len(copies) + 1 - NIGHTS_KEPT, 0)]:
        old.unlink()
    return copy


def newest(settings: Settings) -> Path | None:
    """The newest backup among the backups, of whatever kind."""
    backups = [*settings.backups.glob("*.zip"), *settings.backups.glob("*.db")]
    return max(backups, key=lambda path: path.stat().st_mtime, default=None)


def made_at(backup: Path) -> datetime:
    return datetime.fromtimestamp(backup.stat().st_mtime, UTC)


def verify(backup: Path) -> None:
    """Read a backup to its end. Raises `Invalid` for one that could not be restored."""
    if backup.suffix == ".db":
        _inspect(backup, check=True)
        return
    try:
        with zipfile.ZipFile(backup) as archive:
            hashes = json.loads(archive.read(MANIFEST))["sha256"]
            _read_back(backup, hashes, lambda done: None)
    except (
        zipfile.BadZipFile, KeyError, TypeError, ValueError, AttributeError, Conflict, *UNPACKABLE
    ) as error:  # fmt: skip
        raise Invalid(f"The backup {backup} is damaged.", "Make a new one.") from error


def _files(settings: Settings, staged: set[str]) -> Iterator[tuple[str, Path]]:
    """(name in the archive, path) of every file that is whole, and of the uploads that a job still
    waits to import; these may be gone by the time they are read."""
    for name in FOLDERS:
        for path in sorted((settings.root / name).rglob("*")):
            inside = path.relative_to(settings.root)
            if not path.is_file() or path.is_symlink() or path.name.endswith(".part"):
                continue
            if name != "incoming" or inside.parts[1] in staged:
                yield inside.as_posix(), path


def _write(
    target: Path, parts: dict[str, Path], made_at: datetime, progress: Progress
) -> dict[str, str]:
    """The archive, on the disk. Returns the SHA-256 of every part by its name."""
    hashes, done = {}, 0
    with target.open("wb") as raw:
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, path in parts.items():
                try:
                    file = path.open("rb")
                except FileNotFoundError:
                    continue  # imported, or deleted with its project, meanwhile
                with file, archive.open(name, "w", force_zip64=True) as into:
                    hashes[name], done = _copy(file, into.write, done, progress)
            about = {"made_at": made_at.isoformat(), "sha256": hashes}
            archive.writestr(MANIFEST, json_text(about, indent=1, ascii_only=True))
        raw.flush()
        os.fsync(raw.fileno())
    return hashes


def _read_back(path: Path, hashes: dict[str, str], progress: Progress) -> None:
    done = 0
    with zipfile.ZipFile(path) as archive:
        for name, sha256 in hashes.items():
            with archive.open(name) as file:
                digest, done = _copy(file, None, done, progress)
            if digest != sha256:
                raise Conflict(
                    f"The backup does not read back as it was written ({name}); it was removed.",
                    "Check the disk, and write it to another one.",
                )


def _matches_its_name(name: str, sha256: str) -> bool:
    """Whether an uploaded image is still what its name, the hash of its bytes, says; of what other
    programs noted of one, and lies beside it, nobody knows."""
    path = PurePosixPath(name)
    folder, *rest = path.with_suffix("").parts
    return folder != "images" or path.suffix in NOTES or "".join(rest) == sha256


# --- and back ----------------------------------------------------------------------------------


def restore(settings: Settings, source: Path, report: Report | None = None) -> Restored:
    """Put a backup (a zip of `back_up`, or a bare copy of the database) in the place of what is in
    the home folder. Nobody stays signed in.

    Raises `NotFound`, `Invalid` for a file that is no whole backup or of a newer program,
    `Conflict` while the program runs, and `StorageFull`; nothing was changed then.
    """
    _require_in_home(settings, "pg_restore")
    if not is_file(source):
        raise NotFound(f"There is no file {source}.")
    settings.make_folders()
    with _own_folder(settings, "restoring-") as ready:
        about = _unpack(settings, source, ready, report)
        scores, _ = _inspect(ready / DATABASE, check=True)
        _sign_everybody_out(ready / DATABASE)
        replaced = settings.backups / f"before-restore-{now():%Y%m%d-%H%M%S-%f}"
        with held_alone(settings.root / DATABASE) as existed:
            names = [name for name in about["sha256"] if name != DATABASE]
            for name in names:
                _put_in_place(ready / name, settings.root / name, replaced / name)
            sync_everything()  # tens of thousands of files: one flush, not one each
            failpoint("restore.files")
            if existed:
                replaced.mkdir(exist_ok=True)
                for file in sorted(settings.root.glob(f"{DATABASE}*")):  # -wal too, if damaged
                    take_name(file, replaced / file.name)
                    if file.name != DATABASE:
                        file.unlink(missing_ok=True)
            (ready / DATABASE).replace(settings.root / DATABASE)
            sync_folder(settings.root)
    failpoint("restore.swapped")
    shutil.rmtree(settings.live, ignore_errors=True)  # the worker makes it anew
    migrate(settings).dispose()
    made_at = datetime.fromisoformat(about["made_at"]) if "made_at" in about else None
    return Restored(made_at, len(names), scores, replaced if replaced.exists() else None)


def _unpack(settings: Settings, source: Path, into: Path, report: Report | None) -> dict[str, Any]:
    """Everything in the backup, in the folder `into`, each file what the manifest says."""
    with source.open("rb") as file:
        bare = file.read(len(HEADER)) == HEADER
    if bare:
        _require_space(settings, into, source.stat().st_size)
        shutil.copy(source, into / DATABASE)
        return {"sha256": {DATABASE: ""}}
    no_backup = f"{source} is not a backup of Tastemaker; nothing was changed."
    hint = "A backup is a zip that `tastemaker backup` made, or a copy of tastemaker.db."
    try:
        with zipfile.ZipFile(source) as archive:
            refuse_a_bomb(archive, source.stat().st_size)
            about = json.loads(archive.read(MANIFEST))
            names = about["sha256"]
            datetime.fromisoformat(about["made_at"])
            if DATABASE not in names or not all(map(belongs, names)):
                raise Invalid(no_backup, hint)
            sizes = {name: archive.getinfo(name).file_size for name in names}
            total, done = sum(sizes.values()), 0
            _require_space(settings, into, total)
            refuse_others(archive, names)
            for name, sha256 in names.items():
                target = into / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as file, target.open("wb") as out:
                    digest, done = _copy(
                        file, out.write, done, lambda done: report and report(done, total)
                    )
                if digest != sha256:
                    raise zipfile.BadZipFile(name)
    except zipfile.BadZipFile as error:
        if not zipfile.is_zipfile(source):
            raise Invalid(no_backup, hint) from error
        raise Invalid(
            f"The backup is damaged ({error}); nothing was changed.", "Take an older one."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Invalid(no_backup, hint) from error
    except UNPACKABLE as error:
        raise Invalid(
            f"The backup cannot be unpacked ({error}); nothing was changed.", hint
        ) from error
    return dict(about)


def _inspect(database: Path, check: bool = False) -> tuple[int, set[str]]:
    """How many scores a copy of the database holds, and which folders of uploads its jobs wait for.
    With `check`, also whether it is sound and not of a newer program; raises `Invalid`."""
    try:
        with closing(sqlite.connect(database)) as copy:
            if check:
                (first_line,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
                if first_line != "ok" or copy.execute("PRAGMA foreign_key_check").fetchone():
                    raise sqlite.DatabaseError(first_line)
            (revision,) = copy.execute("SELECT version_num FROM alembic_version").fetchone()
            if revision not in revisions():
                raise Invalid(
                    f"This database is of a newer version of Tastemaker (schema {revision}); "
                    "nothing was changed.",
                    "Use that program for it.",
                )
            (scores,) = copy.execute("SELECT count(*) FROM score_event").fetchone()
            unfinished = "SELECT payload FROM job WHERE state IN ('queued', 'running')"
            payloads = [json.loads(payload) for (payload,) in copy.execute(unfinished)]
    except (sqlite.DatabaseError, TypeError, ValueError) as error:
        raise Invalid(
            f"This database is damaged, or not one of Tastemaker ({error}); nothing was changed.",
            "Restore an older backup.",
        ) from error
    # A test run carries the import of its uploads inside its own payload.
    imports = [payload.get("import", payload) for payload in payloads]
    return int(scores), {p["staging"] for p in imports if "staging" in p}


def _sign_everybody_out(database: Path) -> None:
    """A session or token that was ended since must not come back to life."""
    with closing(sqlite.connect(database)) as copy, copy:
        copy.execute("PRAGMA journal_mode=DELETE")  # all of it in the one file that is moved
        for table in ("login_session", "api_token"):
            if copy.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
                copy.execute(f"DELETE FROM {table}")


@contextmanager
def held_alone(database: Path) -> Iterator[Any | None]:
    """Hold the database alone, by a connection amid a transaction; None where there is none. A
    damaged one cannot be held, and is replaced all the same."""
    if not database.exists():
        yield None
        return
    with closing(sqlite.connect(database, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("PRAGMA journal_mode=DELETE")  # fails while another has it open
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite.DatabaseError as error:
            if "locked" in str(error):
                raise running() from error
        yield connection


def running() -> Conflict:
    return Conflict(
        "The program is running on this home folder; nothing was changed.",
        "Stop `tastemaker serve` and the worker first.",
    )


def _put_in_place(file: Path, target: Path, replaced: Path) -> None:
    """Move a restored file into place; one of the same name but other content to `replaced`."""
    if target.exists() and sha256_of(target) != sha256_of(file):
        replaced.parent.mkdir(parents=True, exist_ok=True)
        target.replace(replaced)
    target.parent.mkdir(parents=True, exist_ok=True)
    file.replace(target)


# --- both --------------------------------------------------------------------------------------


@contextmanager
def _own_folder(settings: Settings, prefix: str) -> Iterator[Path]:
    """A folder on the disk of the home folder, gone afterwards; swept if the process was killed."""
    with tempfile.TemporaryDirectory(dir=settings.root, prefix=prefix, suffix=".part") as folder:
        yield Path(folder)


def _copy(
    file: IO[bytes], write: Callable[[bytes], object] | None, done: int, progress: Progress
) -> tuple[str, int]:
    """Read a file to its end, piece by piece, and `write` each. Returns its SHA-256 and how many
    bytes are done now, of this file and those before."""
    digest = hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)
        if write is not None:
            write(piece)
        done += len(piece)
        progress(done)
    return digest.hexdigest(), done


def _database_bytes(settings: Settings) -> int:
    return sum(path.stat().st_size for path in settings.root.glob(f"{DATABASE}*"))


def _require_space(settings: Settings, path: Path, needed: int) -> None:
    free = free_space(path)
    if free - needed < 1e9 * settings.min_free_gb:
        raise StorageFull(
            f"It needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free on the disk of "
            f"{path.absolute().parent}; {settings.min_free_gb:g} GB are kept free. "
            "Nothing was changed.",
            "Free some space, or name a file on another disk.",
        )
