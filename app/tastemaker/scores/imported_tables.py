"""Tables of scores that were imported: what came in of each, and taking one back as a whole.

Each is a finished job of the project, whose number is in the group of its events.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, func, select

from tastemaker import jobs, projects, scores
from tastemaker.database import sessions
from tastemaker.database.tables import Job, Project, ScoreEvent, in_utc, now
from tastemaker.errors import NotFound
from tastemaker.scores.events import TABLE, is_standing

KIND = "scores"
SHOWN = 20
IDS_AT_ONCE = 2_000  # a transaction: others score in between


@dataclass(frozen=True)
class ImportedTable:
    """A table that was imported: the `file` it came from, how many scores (or hints) were recorded
    of it, and of how many images; whether it was `taken_back` as a whole."""

    id: int
    file: str
    at: datetime
    recorded: int
    images: int
    hints: bool
    taken_back: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"at": in_utc(self.at).isoformat()}


@dataclass(frozen=True)
class TakenBack:
    """How many events were taken back, and of how many of the table's images a score stands that
    was given after it: these keep it."""

    undone: int
    corrected: int


def begin(session: Session, project: Project, file: str, *, group: str | None) -> Job:
    """The record of a table, whose events get the group that its payload names: one of its own, if
    it does not go by the given one."""
    job = jobs.enqueue(session, KIND, f"Import of scores from {file[:80]}", {}, project.id)
    job.payload = {"file": file[:200], "group": group or f"{TABLE}{job.id}", "hints": bool(group)}
    job.state, job.started_at = "done", now()
    job.result = {"first": scores.highest_event(session, project) + 1}
    return job


def finish(session: Session, project: Project, job: Job, images: Sequence[int]) -> int:
    """Note what was recorded, of which images; a table of which nothing was is no table. Its
    number, or 0."""
    first = job.result["first"]
    last, count = session.execute(
        select(func.max(ScoreEvent.id), func.count()).where(
            ScoreEvent.project_id == project.id,
            col(ScoreEvent.id) >= first,
            ScoreEvent.event_group == job.payload["group"],
        )
    ).one()
    if not count:
        session.delete(job)
        session.flush()
        return 0
    job.result = {
        "recorded": count, "images": len(set(images)), "first": first, "last": last,
        "taken_back": False,
    }  # fmt: skip
    job.done = job.total = count
    job.finished_at = now()
    session.add(job)
    session.flush()
    return job.id


def listed(session: Session, project: Project, most: int = SHOWN) -> list[ImportedTable]:
    """The newest tables of a project, newest first."""
    rows = session.exec(
        select(Job)
        .where(Job.project_id == project.id, Job.kind == KIND)
        .order_by(col(Job.id).desc())
        .limit(most)
    )
    return [_of(job) for job in rows]


def _of(job: Job) -> ImportedTable:
    told = job.result
    return ImportedTable(
        job.id, job.payload["file"], job.created_at, told["recorded"], told["images"],
        job.payload["hints"], told["taken_back"],
    )  # fmt: skip


def of_group(session: Session, project: Project, group: str | None) -> ImportedTable | None:
    """The table whose events have this group, if one has."""
    tables = select(Job).where(Job.project_id == project.id, Job.kind == KIND)
    return next((_of(job) for job in session.exec(tables) if job.payload["group"] == group), None)


def take_back(engine: Engine, project_id: int, table_id: int) -> TakenBack:
    """Take back what still stands of a table, by undoing its events, in transactions that hold
    nobody up; what came before it counts again, and what was scored since goes on counting. Doing
    it again, or after it was cut short, takes back what is left. Raises `NotFound` for a table that
    the project does not have."""
    with sessions.reading(engine) as session:
        job = _job(session, project_id, table_id)
        group, first, last = job.payload["group"], job.result["first"], job.result["last"]
    undone, corrected = 0, 0
    for start in range(first, last + 1, IDS_AT_ONCE):
        ids = range(start, min(start + IDS_AT_ONCE, last + 1))
        with sessions.writing(engine) as session:
            project = projects.get(session, project_id)
            undone += scores.undo_recorded(session, project, group, ids)
    with sessions.writing(engine) as session:
        project = projects.get(session, project_id)
        carried = range(last + 1, scores.highest_event(session, project) + 1)
        undone += scores.undo_recorded(session, project, group, carried)
        corrected = _corrected(session, project_id, group, first)
        job = _job(session, project_id, table_id)
        job.result = {**job.result, "taken_back": True}
        session.add(job)
    return TakenBack(undone, corrected)


def _job(session: Session, project_id: int, table_id: int) -> Job:
    job = session.get(Job, table_id)
    if job is None or job.kind != KIND or job.project_id != project_id:
        raise NotFound("There is no such imported table in this project.", "Nothing was changed.")
    return job


def _corrected(session: Session, project_id: int, group: str, first: int) -> int:
    later: Any = aliased(ScoreEvent)
    since = select(later.id).where(
        later.project_id == project_id,
        later.image_id == ScoreEvent.image_id,
        later.id > ScoreEvent.id,
        later.kind == "set",
        func.coalesce(later.event_group, "") != group,
        is_standing(later),
    )
    images = select(func.count(col(ScoreEvent.image_id).distinct())).where(
        ScoreEvent.project_id == project_id,
        col(ScoreEvent.id) >= first,
        ScoreEvent.event_group == group,
        since.exists(),
    )
    return int(session.exec(images).one())
