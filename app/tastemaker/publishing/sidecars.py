"""Scores go out as XMP sidecars: stars for every program, and the score itself under a name of this
one. Pictures are never written to, and of a sidecar that is there nothing else is changed.

Planned first, so that a dry run tells what would be; what was there before is kept in the home
folder, so that the newest writing can be taken back.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from more_itertools import chunked

from tastemaker.config import Settings
from tastemaker.database.tables import now
from tastemaker.errors import (
    BadImage,
    Conflict,
    Invalid,
    NotFound,
    NotWritable,
    StorageFull,
    TastemakerError,
)
from tastemaker.files import sync_folder, write_atomic
from tastemaker.files.json_text import json_text
from tastemaker.files.xmp import Packet, sidecars_beside
from tastemaker.importing.marks import MarkedFile, Marks, marks_of_file
from tastemaker.pictures.decode_pool import DecodePool
from tastemaker.pictures.formats import IMAGE_SUFFIXES, RAW_SUFFIXES
from tastemaker.pictures.pictures import Limits
from tastemaker.publishing.outgoing import STARS_FROM, Outgoing, stars_of

AT_ONCE = 256
MANIFEST = "manifest.jsonl"
PROJECT = "project"  # a file in the folder of a writing: the project's number
WHEN = "%Y%m%d-%H%M%S-%f"  # how such a folder is called

Told = Callable[[int], object]  # how many pictures were looked at, or sidecars written


@dataclass(frozen=True)
class Change:
    """A sidecar to write: the SHA-256 of what is in it now (empty: there is none), the score in
    points and whose it is, the stars for it, and whether somebody else's stars are left."""

    sidecar: Path
    before: str
    score: float
    by: str
    stars: int
    kept: bool

    def written_into(self, content: bytes | None) -> bytes:
        """What the sidecar holds then. Raises `Invalid` where it is no XMP."""
        name = self.sidecar.name
        packet = Packet(called=name) if content is None else Packet(content, name)
        if self.kept:
            if packet.get("xmp", "Rating") == packet.get("tastemaker", "Stars"):
                packet.drop("xmp", "Rating")  # this program's own, which would pass for theirs
            packet.drop("tastemaker", "Stars")
        else:
            packet.put("xmp", "Rating", str(self.stars))
            packet.put("tastemaker", "Stars", str(self.stars))
            once = {*packet.get("tastemaker", "EverStars").split(), str(self.stars)}
            packet.put("tastemaker", "EverStars", " ".join(sorted(once)))
        packet.put("tastemaker", "Score", f"{self.score:.2f}")
        packet.put("tastemaker", "By", self.by)
        return packet.content()


@dataclass
class Plan:
    """What would be done: the changes, how many sidecars say so already, how many keep stars of
    somebody else, and the files that nothing can be done for, each with its reason."""

    changes: list[Change] = field(default_factory=list)
    unchanged: int = 0
    kept: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)


def plan_sidecars(
    rows: Iterable[Outgoing],
    limits: Limits,
    borders: tuple[float, ...] = STARS_FROM,
    *,
    replace_stars: bool = False,
    progress: Told = lambda done: None,
) -> Plan:
    """Look at every picture and at what lies beside it; writes nothing. Stars that a person gave in
    another program, beside the picture or in it, stay unless `replace_stars`."""
    plan, done = Plan(), 0
    with contextlib.closing(DecodePool(limits=limits)) as readers:
        for some in chunked(rows, AT_ONCE):
            plan.problems += [(row.shown, row.why) for row in some if row.why]
            files = [MarkedFile(path, limits) for row in some for path in row.paths]
            said = dict(readers.map(marks_of_file, files))
            for row in some:
                for path in row.paths:
                    _plan_one(
                        plan, row, path, said[MarkedFile(path, limits)], borders, replace_stars
                    )
            done += len(some)
            progress(done)
    return plan


def _plan_one(
    plan: Plan, row: Outgoing, path: Path, said: Marks | BadImage, borders: tuple[float, ...],
    replace_stars: bool,
) -> None:  # fmt: skip
    try:
        if isinstance(said, BadImage):
            raise Invalid(f"{said} Nothing was written beside it.")
        theirs = (said.stars is not None or said.flag != 0) and not replace_stars
        sidecar = sidecar_of(path)
        before = _content(sidecar)
        stars = stars_of(row.score, borders)
        change = Change(sidecar, _hash(before), row.score, row.by, stars, theirs)
        same = before is not None and Packet(before).content() == change.written_into(before)
    except (TastemakerError, OSError) as error:
        plan.problems.append((str(path), str(error)))
        return
    plan.kept += theirs
    if same:
        plan.unchanged += 1
    else:
        plan.changes.append(change)


def sidecar_of(path: Path) -> Path:
    """The sidecar that lies beside a picture, else the one to make: `a.jpg.xmp`, and `a.xmp` of a
    RAW photograph, as Lightroom looks for it, also where a JPEG of that name lies beside it. Else
    `a.xmp` is nobody's where several are called so."""
    raw = path.suffix.lower() in RAW_SUFFIXES
    long, short = path.with_name(f"{path.name}.xmp"), path.with_suffix(".xmp")
    there = sidecars_beside(path) or [short if raw else long]
    if there[0].stem == path.name:
        return there[0]
    with os.scandir(path.parent) as entries:
        names = [Path(entry.name) for entry in entries]
    theirs = RAW_SUFFIXES if raw else IMAGE_SUFFIXES | RAW_SUFFIXES
    same = [n for n in names if n.stem == path.stem and n.suffix.lower() in theirs]
    return there[0] if len(same) <= 1 else long


class _Unreadable(Invalid):
    """A sidecar that cannot be read now, and perhaps later."""


def _content(sidecar: Path) -> bytes | None:
    try:
        if sidecar.is_symlink():
            raise Invalid(f"{sidecar.name} is a link to elsewhere; it was left as it is.")
        return sidecar.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise _Unreadable(f"{sidecar.name} cannot be read: {reason}.") from None


def _hash(content: bytes | None) -> str:
    return "" if content is None else hashlib.sha256(content).hexdigest()


# --- writing, and taking it back -----------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A line of the manifest of a writing: the sidecar, the hash of what was written, and the name
    of the file that keeps what was there (empty: there was none)."""

    sidecar: str
    after: str
    kept_as: str


def write_sidecars(
    settings: Settings, plan: Plan, *, project_id: int | None = None,
    progress: Told = lambda done: None,
) -> tuple[int, list[tuple[str, str]]]:  # fmt: skip
    """Write what was planned, each whole or not at all. Returns how many were, and the others with
    their reasons: a folder that is read-only, a sidecar that another program wrote meanwhile.
    Raises `StorageFull`; what was written before can be taken back."""
    if not plan.changes:
        return 0, []
    kept = _folder_for(settings, project_id)
    written, problems = 0, []
    with (kept / MANIFEST).open("a", encoding="utf-8") as manifest:
        for number, change in enumerate(plan.changes):
            progress(number)
            try:
                before = _content(change.sidecar)
                if _hash(before) != change.before:
                    raise Invalid("It was changed meanwhile; run it again.")
                after = change.written_into(before)
                manifest.write(_noted(kept, number, change.sidecar, before, after) + "\n")
                manifest.flush()
                os.fsync(manifest.fileno())
                _put(change.sidecar, after)
                written += 1
            except StorageFull as error:
                raise StorageFull(
                    f"The disk is full: {written:,} of {len(plan.changes):,} sidecars were "
                    "written, each whole.",
                    "Free some space and run it again, or take them back with --undo.",
                ) from error
            except (Invalid, NotWritable, OSError) as error:
                problems.append((str(change.sidecar), str(error)))
    if not written:  # there is nothing to take back
        shutil.rmtree(kept)
        return 0, problems
    sync_folder(kept)
    return written, problems


def _folder_for(settings: Settings, project_id: int | None) -> Path:
    """A new folder for what this writing replaces; folders are in the order of their names."""
    kept = settings.root / "write-back" / now().strftime(WHEN)
    kept.mkdir(parents=True)
    if project_id is not None:
        (kept / PROJECT).write_text(str(project_id))
    return kept


def newest_writing(settings: Settings, project_id: int | None = None) -> str | None:
    """The name of the writing, of this project or of any, that `undo_sidecars` would take back."""
    written = _writings(settings, project_id)
    return written[-1].name if written else None


@dataclass(frozen=True)
class Writing:
    """A writing that can be taken back: how many `sidecars` it changed, and the `first` of them (""
    without any); of which project, None where that was not noted."""

    name: str
    project_id: int | None
    sidecars: int
    first: str

    @property
    def at(self) -> datetime:
        return written_at(self.name)


def described(settings: Settings, writing: str) -> Writing:
    """What a writing that stands did. Raises `NotFound` where there is none of this name."""
    folder = next((one for one in _writings(settings, None) if one.name == writing), None)
    if folder is None:
        raise NotFound("There is no such writing of sidecars to take back.", "Nothing was changed.")
    paths = [entry.sidecar for entry in _entries(folder)]
    of = (folder / PROJECT).read_text() if (folder / PROJECT).is_file() else ""
    return Writing(
        writing, int(of) if of.isdecimal() else None, len(paths), paths[0] if paths else ""
    )


def written_at(writing: str) -> datetime:
    """When a writing of that name was."""
    return datetime.strptime(writing, WHEN).replace(tzinfo=UTC)


def _writings(settings: Settings, project_id: int | None) -> list[Path]:
    found = sorted(
        folder for folder in (settings.root / "write-back").glob("*-*")
        if (folder / MANIFEST).is_file()
    )  # fmt: skip
    if project_id is None:
        return found
    of_it = [folder for folder in found if (folder / PROJECT).is_file()]
    return [folder for folder in of_it if (folder / PROJECT).read_text() == str(project_id)]


def _noted(kept: Path, number: int, sidecar: Path, before: bytes | None, after: bytes) -> str:
    """The line of the manifest, once what was there is kept: written before the sidecar is touched,
    so that a killed process leaves no change that cannot be taken back."""
    kept_as = ""
    if before is not None:
        kept_as = f"{number:07d}.xmp"
        write_atomic(kept / kept_as, before)
    return _line(Entry(str(sidecar), _hash(after), kept_as))


def _line(entry: Entry) -> str:
    return json_text(asdict(entry))


def _put(sidecar: Path, content: bytes) -> None:
    """A whole file or none, with the mode that it had."""
    mode = sidecar.stat().st_mode if sidecar.exists() else None
    write_atomic(sidecar, content)
    if mode is not None:
        with contextlib.suppress(OSError):  # a share may know no modes
            sidecar.chmod(mode & 0o7777)


def undo_sidecars(
    settings: Settings, project_id: int | None = None, writing: str = ""
) -> tuple[int, list[tuple[str, str]]]:
    """Take the newest writing back, of any project or of one: what was there before is there again,
    and sidecars that were new are gone. Returns how many, and the others with their reasons: those
    that another program wrote to since, which stay; and those that cannot be reached now, which the
    next undo tries again. Raises `NotFound` where there is none to take back, or not the `writing`
    that was meant, and `Conflict` where that is not the newest: it would be lost, for what it
    replaced is no longer what is there."""
    written = _writings(settings, project_id)
    if not written or writing not in ("", *(one.name for one in written)):
        raise NotFound("There is no writing of sidecars to take back.", "Nothing was changed.")
    kept = written[-1]
    if writing not in ("", kept.name):
        raise Conflict(
            "Sidecars were written again before this could be taken back; nothing was changed.",
            "Take the newest writing back first.",
        )
    undone, problems = 0, []
    later: list[Entry] = []
    for entry in _entries(kept):
        sidecar = Path(entry.sidecar)
        try:
            if not sidecar.parent.is_dir():
                raise _Unreadable("Its folder is not there. Connect it and take back once more.")
            there = _content(sidecar)
            before = (kept / entry.kept_as).read_bytes() if entry.kept_as else None
            if there == before:
                continue
            if _hash(there) != entry.after:
                raise Invalid("Another program changed it since; it was left as it is.")
            _restore(sidecar, before)
            undone += 1
        except (OSError, NotWritable, _Unreadable) as error:
            problems.append((entry.sidecar, str(error)))
            later.append(entry)
        except Invalid as error:
            problems.append((entry.sidecar, str(error)))
    if later:
        write_atomic(kept / MANIFEST, "".join(f"{_line(entry)}\n" for entry in later).encode())
    else:
        (kept / MANIFEST).rename(kept / "undone.jsonl")
    return undone, problems


def _restore(sidecar: Path, before: bytes | None) -> None:
    if before is None:
        sidecar.unlink()
    else:
        _put(sidecar, before)


def _entries(kept: Path) -> Iterator[Entry]:
    for line in (kept / MANIFEST).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, TypeError):  # the last one, of a killed process
            yield Entry(**json.loads(line))
