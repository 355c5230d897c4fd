"""Watched folders: what is new in them comes in by itself, what was moved is found again, what is
gone is shown as gone. Nothing is deleted.

The worker looks by polling, so that it works on network drives. Each look runs in a thread of its
own, which a share that does not answer holds up alone, and only compares what lies there with what
lay there at the last import. A change counts once two looks in a row agree on it: files are not
taken while they are still being copied.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tastemaker import images, jobs, projects
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import Job, Project, WatchedFolder
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.files.folders import FolderWalk
from tastemaker.files.roots import outside, within
from tastemaker.importing import requests
from tastemaker.importing.requests import ImportRequest
from tastemaker.pictures.formats import IMAGE_SUFFIXES

MOST = 50  # folders of a project
PATIENCE = 10  # ticks that one look may take before it is said that the folder does not answer
SILENT = "It does not answer. Is its disk or share connected? Everything known of it is kept."
EMPTY = (
    "No picture is in it any more. If its disk is not connected, connect it; everything known of "
    "it is kept."
)


def watch(
    session: Session,
    settings: Settings,
    project: Project,
    folder: str | Path,
    *,
    collection: str | None = None,
    role: str = projects.POOL,
    asked_by: int = 0,
) -> WatchedFolder:
    """Watch a folder of this machine for a project; what is in it comes in at the next looks. It
    may be empty. Raises what is wrong with it, and `Conflict` where it is watched already."""
    projects.check_role(role)
    [path] = requests.validate_paths(settings, [folder], may_be_empty=True)
    if not path.is_dir():
        raise Invalid(f"“{path.name}” is no folder.", "Name the folder that it lies in.")
    for other in of_project(session, project):
        theirs = Path(other.path)
        if path == theirs or theirs in path.parents or path in theirs.parents:
            raise Conflict(
                f"{other.path} is watched already, and one of the two lies in the other.",
                "Stop watching that one first.",
            )
    if len(of_project(session, project)) >= MOST:
        raise Conflict(f"{MOST} folders are watched already.", "Watch the folder above them.")
    name = images.validate_collection_name(collection or requests.free_name(path)[:120])
    row = WatchedFolder(
        project_id=project.id, path=str(path), collection=name, role=role, asked_by=asked_by
    )
    session.add(row)
    session.flush()
    return row


def of_project(session: Session, project: Project) -> list[WatchedFolder]:
    """The watched folders of a project, in the order in which they were named."""
    mine = select(WatchedFolder).where(WatchedFolder.project_id == project.id)
    return list(session.exec(mine.order_by(col(WatchedFolder.id))))


def stop(session: Session, project: Project, which: int | str | Path) -> str:
    """Watch a folder, by its id or path, no longer; returns its path. Its images stay. Raises
    `NotFound`."""
    wanted = which if isinstance(which, int) else str(Path(which).resolve())
    for row in of_project(session, project):
        if wanted in (row.id, row.path):
            session.delete(row)
            session.flush()
            return row.path
    raise NotFound("This folder is not watched here.", "Nothing was changed.")


def as_json(session: Session, project: Project) -> list[dict[str, object]]:
    """The watched folders for pages and programs; `trouble` is empty where one could be looked
    into, `gone` counts the images that were in it and are nowhere any more."""
    rows = of_project(session, project)
    gone = images.count_gone(session, [row.path for row in rows])
    return [
        {
            "id": row.id, "path": row.path, "collection": row.collection, "role": row.role,
            "trouble": row.trouble, "gone": count,
        }
        for row, count in zip(rows, gone, strict=True)
    ]  # fmt: skip


# --- looking -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sight:
    """What a look found: a hash of all pictures and zips with their sizes and times, and how many
    they are; or the `trouble` that there was."""

    print: str = ""
    pictures: int = 0
    trouble: str = ""


def look_into(folder: Path, settings: Settings) -> Sight:
    """Go through a folder. What cannot be entered in it is passed over."""
    try:
        if not within(folder.resolve(), settings.roots):
            return Sight(trouble=str(outside(folder.name, settings.roots)))
        if not folder.is_dir():
            return Sight(trouble="It is not there. Is its disk or share connected?")
        digest, count = hashlib.blake2b(digest_size=16), 0
        walk = FolderWalk(folder, (IMAGE_SUFFIXES | {".zip"}).__contains__, exclude=settings.root)
        for path in walk.files():
            status = path.lstat()
            facts = (str(path), status.st_size, status.st_mtime_ns)
            digest.update(repr(facts).encode("utf-8", "surrogateescape"))
            count += 1
        if folder in walk.unreadable:
            return Sight(trouble=f"It cannot be entered: {walk.unreadable[folder]}.")
    except OSError as error:
        return Sight(trouble=f"It cannot be read: {(error.strerror or str(error)).lower()}.")
    return Sight(digest.hexdigest(), count)


@dataclass
class _Look:
    """A look under way, in a thread that may never end; `sight` is there when it has."""

    sight: Sight | None = None
    rounds: int = 0


@dataclass
class Watcher:
    """Looks into every watched folder at each `tick` of the worker's clock."""

    settings: Settings
    engine: Engine
    start: Callable[[Callable[[], None]], None] = field(
        default=lambda do: threading.Thread(target=do, daemon=True).start()
    )
    _looks: dict[int, _Look] = field(default_factory=dict)
    _seen: dict[int, str] = field(default_factory=dict)

    def tick(self) -> None:
        """Take in what the looks of the last tick found, and begin the next."""
        with sessions.reading(self.engine) as session:
            rows = list(session.exec(select(WatchedFolder)))
        for row in rows:
            look = self._looks.get(row.id)
            if look is not None and look.sight is None:
                look.rounds += 1
                if look.rounds >= PATIENCE:
                    self._take_in(row, Sight(trouble=SILENT))
                continue
            if look is not None and look.sight is not None:
                self._take_in(row, look.sight)
            self._looks[row.id] = self._begin(Path(row.path))
        gone = self._looks.keys() - {row.id for row in rows}
        for row_id in gone:
            del self._looks[row_id]

    def _begin(self, folder: Path) -> _Look:
        look = _Look()

        def do() -> None:
            look.sight = look_into(folder, self.settings)

        self.start(do)
        return look

    def _take_in(self, row: WatchedFolder, sight: Sight) -> None:
        """Writes only where something changed: looks are many, changes few."""
        trouble = sight.trouble
        changed = not trouble and sight.print != row.print
        if changed and row.print and not sight.pictures:
            trouble, changed = EMPTY, False
        if not changed:
            self._seen.pop(row.id, None)
        elif self._seen.get(row.id) != sight.print:
            self._seen[row.id], changed = sight.print, False
        if trouble == row.trouble and not changed:
            return
        with sessions.writing(self.engine) as session:
            there = session.get(WatchedFolder, row.id)
            if there is None:  # it was given up meanwhile
                return
            there.trouble = trouble
            if changed and not _being_imported(session, there):  # else at the next look
                there.print = sight.print
                if sight.pictures:
                    _import(session, there)
            session.add(there)


def _being_imported(session: Session, row: WatchedFolder) -> bool:
    """Whether an import of this very folder is under way or waits, as of one that was just added:
    a second one would decode all of it once more."""
    unfinished = select(Job).where(
        Job.kind == "import", Job.project_id == row.project_id,
        col(Job.state).in_(("queued", "running")),
    )  # fmt: skip
    return any(row.path in job.payload.get("paths", ()) for job in session.exec(unfinished))


def _import(session: Session, row: WatchedFolder) -> None:
    """The import of everything in the folder: what is known costs nothing, what lies elsewhere now
    is found again by its content, and what is gone is noted."""
    request = ImportRequest(collection=row.collection, role=row.role, paths=(row.path,))
    jobs.enqueue(
        session, "import", f"Import what is new in “{row.collection}”",
        request.model_dump(mode="json", exclude_unset=True), row.project_id, once=True,
        asked_by=row.asked_by,
    )  # fmt: skip
