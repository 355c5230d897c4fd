"""The job “stars”: what other programs noted of a project's images is looked up where their files
lie, told with the score that follows by the rule, and recorded if that was asked for.

As a rule it is recorded beside the scores, as a hint whose noise is learned (`learning.answers`):
it makes no label, the queues go on asking for the image, and nothing is measured by it. Asked for
as scores, it counts like the scores of folders: until a person scores the image, and for a random
tenth in the hold-out.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tastemaker import images, jobs, projects, scores
from tastemaker.config import Settings
from tastemaker.database import sessions
from tastemaker.database.tables import Annotator, Image, ImagePath, Job, Project, ScoreEvent
from tastemaker.errors import BadImage, Conflict, Invalid, NotFound
from tastemaker.importing.mark_rules import MarkRule, parse_rule
from tastemaker.importing.marks import MarkedFile, Marks, marks_of_file
from tastemaker.jobs.context import JobContext
from tastemaker.pictures.decode_pool import DecodePool
from tastemaker.pictures.pictures import Limits
from tastemaker.scores import imported_tables
from tastemaker.scores.answers import OTHER_PROGRAMS, RATED, RECORDING

BATCH = 256  # images whose marks are recorded in one transaction
SHOWN = 10  # examples
MOST_PROBLEMS = 200


class StarsRequest(BaseModel, frozen=True):
    """The payload of the job. `rule` as it is typed; without `record` nothing is written."""

    rule: str = ""
    record: bool = False
    as_scores: bool = False


@dataclass
class Found:
    """What was found: how many images were looked at, how many have marks and how many of these
    count by the rule; how often each mark was met; the first examples as (picture, marks, score or
    None), and what could not be believed as (picture, sentence)."""

    looked_at: int = 0
    marked: int = 0
    scored: int = 0
    recorded: int = 0
    unchanged: int = 0
    disbelieved: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    rows: list[tuple[str, str, int | None]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return vars(self) | {"counts": dict(self.counts.most_common(100))}


def request_stars(
    session: Session, project: Project, request: StarsRequest, asked_by: int = 0
) -> Job:
    """Queue the job. Raises `Invalid` for a rule that is none, and for a project without scores."""
    if project.kind != "score":
        raise Invalid(
            f"“{project.name}” sorts into classes, and stars are scores.",
            "Look for them in a project that gives scores.",
        )
    parse_rule(request.rule)
    title = ("Record" if request.record else "Look for") + " stars of other programs"
    payload = request.model_dump(mode="json")
    return jobs.enqueue(session, "stars", title, payload, project.id, once=True, asked_by=asked_by)


def run(job: JobContext) -> dict[str, Any]:
    """Look at every image of the project's pool; safe to run again, as what is recorded already is
    not recorded twice. Returns the request and what was found."""
    request = StarsRequest.model_validate(job.payload)
    rule, found = parse_rule(request.rule), Found()
    with job.reading() as session:
        total = projects.size(session, projects.get(session, job.project_id))
    job.stage("Looking for stars, labels and flags", total)
    with closing(DecodePool(limits=Limits.of(job.settings))) as readers:
        for batch in _batches(job):
            told = _look(readers, batch, rule, found)
            if request.record and told:
                _record(job, request, told, found)
            job.progress(min(found.looked_at, total))
    for name, reason in found.problems:
        job.log(f"{name}: {reason}")
    recording = f"{RECORDING}{job.claim.job_id}" if found.recorded else None
    return request.model_dump() | {"rule": str(rule), "recording": recording} | found.as_dict()


def newest_recording(
    session: Session, project: Project, job: int | None = None
) -> tuple[ScoreEvent, Annotator] | None:
    """The newest event of the recording that `take_back` would take back, of stars or of a table's
    hints, and whose it is: also where scores of folders and files came in after it. With the id of
    a job, the newest that it recorded and that stands."""
    begins = RECORDING if job is None else f"{RECORDING}{job}:"
    found = session.execute(
        scores.standing_events()
        .add_columns(Annotator)
        .join(Annotator, col(Annotator.id) == ScoreEvent.annotator_id)
        .where(
            ScoreEvent.project_id == project.id,
            col(Annotator.name).in_((OTHER_PROGRAMS, projects.IMPORTED)),
            col(ScoreEvent.event_group).startswith(begins),
        )
        .order_by(col(ScoreEvent.id).desc())
        .limit(1)
    ).first()
    return None if found is None else (found[0], found[1])


def job_of(event: ScoreEvent) -> int:
    """The job that recorded it; 0: it came from a table."""
    by = (event.event_group or "").split(":")[1]
    return int(by) if by.isdecimal() else 0


def recording_of(event: ScoreEvent) -> str:
    """The name of the recording that an event belongs to: “stars:12”, of the job or the table."""
    return (event.event_group or "").rpartition(":")[0]


@dataclass(frozen=True)
class Recording:
    """A recording that stands: since when, of how many images, as hints or as scores, and the table
    that it came from ("": the marks of the pictures)."""

    name: str
    at: datetime
    images: int
    hints: bool
    file: str


def described(session: Session, project: Project, recording: str) -> Recording:
    """What of a recording stands. Raises `NotFound` where that is nothing."""
    events = session.exec(
        scores.standing_events()
        .where(
            ScoreEvent.project_id == project.id,
            col(ScoreEvent.event_group).startswith(f"{recording}:", autoescape=True),
        )
        .order_by(col(ScoreEvent.id))
    ).all()
    if not recording.startswith(RECORDING) or not events:
        raise NotFound("There is no such recording to take back.", "Nothing was changed.")
    first, images = events[0], len({event.image_id for event in events})
    table = imported_tables.of_group(session, project, first.event_group)
    at, file = (table.at, table.file) if table is not None else (first.at, "")
    return Recording(recording, at, images, first.kind == RATED, file)


def take_back(engine: Engine, project_id: int, recording: str) -> int:
    """Take a recording of stars back, as hints or as scores, in transactions that hold nobody up;
    returns how many were. Raises `NotFound` where none stands, `Invalid` where none is named, and
    `Conflict` where the named one is not the newest any more."""
    taken = 0
    while True:
        with sessions.writing(engine) as session:
            project = projects.get(session, project_id)
            newest = newest_recording(session, project)
            name = recording_of(newest[0]) if newest else ""
            if newest is None or (taken and name != recording):
                break
            if not recording:
                raise Invalid("Which recording is to be taken back?", f"The newest is {name}.")
            if name != recording:
                raise Conflict(
                    "These were taken back already, or others were recorded since.",
                    "Nothing was changed.",
                )
            taken += scores.undo_group(session, project, newest[1], newest[0].event_group or "")
    if not taken:
        raise NotFound("No stars of other programs are recorded here.", "Nothing was changed.")
    return taken


# --- which files, and what they say --------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """An image, what people know it by, and where its bytes lie."""

    image_id: int
    name: str
    files: tuple[MarkedFile, ...]


def _batches(job: JobContext) -> Iterator[list[_Asked]]:
    """The images of the pool, in the order of their ids."""
    after = 0
    while True:
        with job.reading() as session:
            some = session.exec(
                select(Image)
                .where(
                    projects.is_member(job.project_id, Image.id),
                    Image.id > after,
                    Image.kind != "vector",
                )
                .order_by(col(Image.id))
                .limit(BATCH)
            ).all()
            if not some:
                return
            after = some[-1].id
            yield _asked(session, job.settings, some)


def _asked(session: Session, settings: Settings, some: Sequence[Image]) -> list[_Asked]:
    limits = Limits.of(settings)
    paths: dict[int, list[Path]] = {}
    scanned = select(ImagePath.image_id, ImagePath.path).where(
        col(ImagePath.image_id).in_([image.id for image in some]), ImagePath.state == "present"
    )
    for image_id, path in session.exec(scanned.order_by(col(ImagePath.id))):
        paths.setdefault(image_id, []).append(Path(path))
    asked = []
    for image in some:
        there = paths.get(image.id, [])
        name = str(there[0]) if there else image.name
        if image.kind == "upload":
            there = [*there, images.stored_path(settings, image)]
        asked.append(_Asked(image.id, name, tuple(MarkedFile(path, limits) for path in there)))
    return asked


def _look(readers: DecodePool, batch: list[_Asked], rule: MarkRule, found: Found) -> dict[int, int]:
    """Image id → the score that follows, of those that have one."""
    said: dict[MarkedFile, Marks | BadImage] = dict(
        readers.map(marks_of_file, [file for asked in batch for file in asked.files])
    )
    told = {}
    for asked in batch:
        found.looked_at += 1
        try:
            marks = _of_copies([said[file] for file in asked.files])
        except BadImage as error:
            found.disbelieved += 1
            if len(found.problems) < MOST_PROBLEMS:
                found.problems.append((asked.name, str(error)))
            continue
        if not marks:
            continue
        found.marked += 1
        found.counts.update([*marks.words(), *(["points"] if marks.points is not None else [])])
        score = rule.score(marks)
        if len(found.rows) < SHOWN:
            found.rows.append((asked.name, str(marks), score))
        if score is not None:
            found.scored += 1
            told[asked.image_id] = score
    return told


def _of_copies(said: list[Marks | BadImage]) -> Marks:
    """What the copies of one image say together."""
    marks = [one for one in said if isinstance(one, Marks) and one]
    if not marks:
        faults = [one for one in said if isinstance(one, BadImage)]
        if faults:
            raise faults[0]
        return Marks()
    if len({(one.stars, one.flag) for one in marks}) > 1:
        apart = "; ".join(dict.fromkeys(map(str, marks)))
        raise BadImage(
            f"Its copies disagree ({apart}); nothing was taken.",
            "Rate them alike, or remove one.",
        )
    return marks[0]


def _record(job: JobContext, request: StarsRequest, told: dict[int, int], found: Found) -> None:
    group = f"{RECORDING}{job.claim.job_id}:{found.looked_at}"
    with job.writing() as session:
        project = projects.get(session, job.project_id)
        name = projects.IMPORTED if request.as_scores else OTHER_PROGRAMS
        person = projects.annotator(session, name, proxy=True)
        session.flush()
        kind = "set" if request.as_scores else RATED
        given = [scores.Given(image_id, person.id, value, kind) for image_id, value in told.items()]
        written = scores.record_many(
            session, project, given, origin=scores.Origin.IMPORT, group=group
        )
        found.recorded += sum(written)
        found.unchanged += len(written) - sum(written)
