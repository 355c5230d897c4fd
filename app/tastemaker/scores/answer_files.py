"""Pairs and sweeps in and out as CSV, JSON lines or Parquet: what heads learn from besides scores.

A row is one answer: `said` is better, even, at_least or below; `sha256` and `path` name the image,
`other_sha256` and `other_path` the one it was compared with, `bound` what a sweep compares with."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from more_itertools import chunked
from sqlalchemy import Engine
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from tastemaker import images, projects, scores
from tastemaker.database import sessions
from tastemaker.database.tables import Annotator, Comparison, Image, Project, ScoreEvent, in_utc
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.files import unescape_formula
from tastemaker.scores import comparisons
from tastemaker.scores.answers import SWEEPS
from tastemaker.scores.events import is_standing
from tastemaker.scores.references import References
from tastemaker.scores.row_files import Row, read_rows
from tastemaker.scores.score_files import BadRow, ImportedScores, moment, refused

COLUMNS = (
    "said", "sha256", "path", "other_sha256", "other_path", "bound", "annotator", "said_at",
)  # fmt: skip
PAIRS = ("better", "even")
IDS_PER_QUERY = 5000
NOT_IN_PROJECT = ("One of its images is not in this project.", "Add the image first.")

# Person and two images → which of them is better (None: neither), and when that was said.
Pairs = dict[tuple[int, frozenset[int]], list[tuple[int | None, datetime]]]


class GoodRow(NamedTuple):
    """What a row says: of which image, beside which other or which bound, who and when."""

    said: str
    image_id: int
    other_id: int | None
    bound: int | None
    person: str
    at: Any


def export_answers(engine: Engine, project_name: str) -> list[dict[str, Any]]:
    """A row per pair that stands, and per sweep that stands and that its person's newest score of
    the image has not taken the place of; each in the order they were given."""
    with sessions.reading(engine) as session:
        project = projects.by_name(session, project_name)
        names = dict(session.execute(select(Annotator.id, Annotator.name)).tuples().all())
        pairs = session.exec(
            comparisons.standing(project).order_by(col(Comparison.id))
        ).all()  # fmt: skip
        sweeps = session.exec(
            scores.standing_events()
            .where(ScoreEvent.project_id == project.id, col(ScoreEvent.kind).in_(SWEEPS))
            .where(~_scored_later())
            .order_by(col(ScoreEvent.id))
        ).all()
        ids = {i for pair in pairs for i in (pair.first_id, pair.second_id)}
        ids |= {event.image_id for event in sweeps}
        found = [
            image
            for some in chunked(sorted(ids), IDS_PER_QUERY)
            for image in session.exec(select(Image).where(col(Image.id).in_(some)))
        ]
        paths = images.shown_paths(session, found)
        known = {image.id: {"sha256": image.sha256, "path": paths[image.id]} for image in found}
        rows = []
        for pair in pairs:
            first, second = pair.first_id, pair.second_id
            better, other = (second, first) if pair.verdict == "second" else (first, second)
            said = "even" if pair.verdict == "equal" else "better"
            rows.append(_row(said, known[better], known[other], None, names, pair))
        rows += [
            _row(event.kind, known[event.image_id], None, event.value, names, event)
            for event in sweeps
        ]
        return rows


def _scored_later() -> Any:
    """Condition: the person of an event gave the image a score after it, which stands."""
    score = aliased(ScoreEvent)
    return (
        select(score.id)
        .where(
            score.project_id == ScoreEvent.project_id,
            score.image_id == ScoreEvent.image_id,
            score.annotator_id == ScoreEvent.annotator_id,
            score.kind == "set",
            col(score.id) > col(ScoreEvent.id),
            is_standing(score),
        )
        .exists()
    )


def _row(
    said: str,
    image: dict[str, str],
    other: dict[str, str] | None,
    bound: int | None,
    names: dict[int, str],
    event: Comparison | ScoreEvent,
) -> dict[str, Any]:
    beside = other or {"sha256": "", "path": ""}
    return {
        "said": said, **image,
        "other_sha256": beside["sha256"], "other_path": beside["path"],
        "bound": bound, "annotator": names[event.annotator_id],
        "said_at": in_utc(event.at).isoformat(),
    }  # fmt: skip


def import_answers(engine: Engine, project_name: str, file: Path) -> ImportedScores:
    """Record every row of a file, in one transaction; with bad rows in it nothing is recorded, and
    `BadRows` names each. What is there already is not written again. What names no annotator is
    kept, and teaches nothing (see `scores.answers`)."""
    rows = read_rows(file)
    if not rows:
        raise Invalid(f"{file.name} holds no row.", "A header and rows with `said` are needed.")
    told = ImportedScores()
    with sessions.reading(engine) as session:
        project_id = projects.by_name(session, project_name).id
        references, read = References(session, file.parent), []
        for row in references.ahead(rows, _names):
            try:
                read.append((row, _read(row, references)))
            except TastemakerError as error:
                told.bad.append(BadRow(row.where, error.message, error.hint))
        outside = _outside(session, project_id, [answer for _, answer in read])
        for row, answer in read:
            if outside(answer):
                told.bad.append(BadRow(row.where, *NOT_IN_PROJECT))
    if told.bad:
        raise refused(file, told, len(rows), None, whole=True)
    with sessions.writing(engine) as session:
        project = projects.get(session, project_id)
        people = {
            name: projects.annotator(session, name, proxy=name == projects.IMPORTED)
            for name in {answer.person for _, answer in read}
        }
        there = _pairs_there(session, project)
        sweeps = [
            scores.Given(a.image_id, people[a.person].id, a.bound, a.said, a.at)
            for _, a in read
            if a.bound is not None
        ]
        written = scores.record_many(session, project, sweeps, origin=scores.Origin.IMPORT)
        for _, answer in read:
            if answer.other_id is not None:
                pair = (answer.image_id, answer.other_id)
                written.append(
                    _record(session, project, people[answer.person], answer, pair, there)
                )
            told.nameless += answer.person == projects.IMPORTED
        told.recorded = sum(written)
        told.unchanged = len(written) - sum(written)
    return told


def _outside(
    session: Session, project_id: int, answers: Sequence[GoodRow]
) -> Callable[[GoodRow], bool]:
    """Whether an answer is about an image that the project cannot take it for: pairs are of its
    pool, sweeps of all that is or was in it, as scores are."""

    def inside(ids: set[int], role: str | None, removed_too: bool) -> set[int]:
        member = projects.is_member(project_id, col(Image.id), role, removed_too=removed_too)
        return {
            image_id
            for some in chunked(sorted(ids), IDS_PER_QUERY)
            for image_id in session.exec(select(Image.id).where(col(Image.id).in_(some), member))
        }

    compared = {i for a in answers if a.other_id is not None for i in (a.image_id, a.other_id)}
    pool = inside(compared, projects.POOL, removed_too=False)
    swept = inside(
        {a.image_id for a in answers if a.other_id is None}, projects.ANY_ROLE, removed_too=True
    )
    return lambda answer: (
        answer.image_id not in swept
        if answer.other_id is None
        else not {answer.image_id, answer.other_id} <= pool
    )


def _pairs_there(session: Session, project: Project) -> Pairs:
    """What every person said of every two images, and when."""
    there: Pairs = {}
    for row in session.exec(comparisons.standing(project)):
        better = row.second_id if row.verdict == "second" else row.first_id
        said = (None if row.verdict == "equal" else better, in_utc(row.at))
        two = frozenset((row.first_id, row.second_id))
        there.setdefault((row.annotator_id, two), []).append(said)
    return there


def _named(row: Row, prefix: str) -> str | None:
    cells = (row.cells.get(f"{prefix}{name}") for name in ("sha256", "path"))
    return next((str(cell) for cell in cells if cell not in (None, "")), None)


def _names(row: Row) -> list[str | None]:
    return [_named(row, prefix) for prefix in ("", "other_")]


def _read(row: Row, references: References) -> GoodRow:
    """Raises what is wrong with the row."""
    if row.fault:
        raise Invalid(row.fault)
    said = str(row.cells.get("said") or "").strip()
    if said not in (*PAIRS, *SWEEPS):
        raise Invalid(
            f"“{said[:40]}” is no answer.", f"A column said is needed: {', '.join(COLUMNS)}."
        )

    def image_of(prefix: str) -> int:
        named = _named(row, prefix)
        if named is None:
            raise Invalid(f"It names no image in {prefix}sha256 or {prefix}path.")
        return int(references.find(unescape_formula(named)).id)

    pair = said in PAIRS
    first, other = image_of(""), image_of("other_") if pair else None
    if first == other:
        raise Invalid("An image cannot be compared with itself.")
    bound = None if pair else scores.parse_score(row.cells.get("bound"))
    if bound == 0:
        raise Invalid("Every score is at least 0, so this says nothing.", "Choose 1 to 10.")
    name = unescape_formula(str(row.cells.get("annotator") or projects.IMPORTED))
    return GoodRow(said, first, other, bound, name, moment(row.cells.get("said_at")))


def _record(
    session: Session, project: Project, person: Annotator, answer: GoodRow, pair: tuple[int, int],
    there: Pairs,
) -> bool:  # fmt: skip
    """Whether the pair was written: not if the same person said the same at that time already."""
    even = answer.said == "even"
    two = frozenset(pair)
    known = there.setdefault((person.id, two), [])
    better = None if even else answer.image_id
    if any(was == better and answer.at in (None, at) for was, at in known):
        return False
    made = comparisons.record(
        session, project, person, *pair, "equal" if even else "first"
    )  # fmt: skip
    if answer.at is not None:
        made.at = answer.at
        session.add(made)
    known.append((better, in_utc(made.at)))
    return True
