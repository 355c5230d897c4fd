"""Pairs and sweeps in and out as CSV, JSON lines or Parquet: what heads learn from besides scores.

A row is one answer: `said` is better, even, at_least or below; `sha256` and `path` name the image,
`other_sha256` and `other_path` the one it was compared with, `bound` what a sweep compares with."""

from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tastemaker import images, projects, scores
from tastemaker.database import sessions
from tastemaker.database.tables import Annotator, Comparison, Image, Project, ScoreEvent, in_utc
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.files import unescape_formula
from tastemaker.scores import comparisons
from tastemaker.scores.answers import SWEEPS
from tastemaker.scores.references import References
from tastemaker.scores.row_files import Row, read_rows
from tastemaker.scores.score_files import BadRow, ImportedScores, moment, refused

COLUMNS = (
    "said", "sha256", "path", "other_sha256", "other_path", "bound", "annotator", "said_at",
)  # fmt: skip
PAIRS = ("better", "even")


class GoodRow(NamedTuple):
    """What a row says: of which image, beside which other or which bound, who and when."""

    said: str
    image_id: int
    other_id: int | None
    bound: int | None
    person: str
    at: Any


def export_answers(engine: Engine, project_name: str) -> list[dict[str, Any]]:
    """A row per pair and sweep that stands, in the order they were given."""
    with sessions.reading(engine) as session:
        project = projects.by_name(session, project_name)
        names = dict(session.execute(select(Annotator.id, Annotator.name)).tuples().all())
        pairs = session.exec(
            comparisons.standing(project).order_by(col(Comparison.id))
        ).all()  # fmt: skip
        sweeps = session.exec(
            scores.standing_events()
            .where(ScoreEvent.project_id == project.id, col(ScoreEvent.kind).in_(SWEEPS))
            .order_by(col(ScoreEvent.id))
        ).all()
        ids = {i for pair in pairs for i in (pair.first_id, pair.second_id)}
        ids |= {event.image_id for event in sweeps}
        known = {
            image.id: {"sha256": image.sha256, "path": images.shown_path(session, image)}
            for image in session.exec(select(Image).where(col(Image.id).in_(ids)))
        }
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
        references, good = References(session, file.parent), []
        for row in rows:
            try:
                good.append(_read(row, references))
            except TastemakerError as error:
                told.bad.append(BadRow(row.where, error.message, error.hint))
    if told.bad:
        raise refused(file, told, len(rows), None)
    with sessions.writing(engine) as session:
        project = projects.get(session, project_id)
        for answer in good:
            fresh = _record(session, project, answer)
            told.recorded += fresh
            told.unchanged += not fresh
            told.nameless += answer.person == projects.IMPORTED
    return told


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
        cells = (row.cells.get(f"{prefix}{name}") for name in ("sha256", "path"))
        named = next((str(cell) for cell in cells if cell not in (None, "")), None)
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


def _record(session: Session, project: Project, answer: GoodRow) -> bool:
    """Whether it was written: not if the same person said the same at that time already."""
    person = projects.annotator(session, answer.person, proxy=answer.person == projects.IMPORTED)
    if answer.other_id is None:
        return scores.record(
            session, project, answer.image_id, person, answer.said, answer.bound,
            origin=scores.Origin.IMPORT, at=answer.at, unless_same=True,
        ).fresh  # fmt: skip
    verdict = "equal" if answer.said == "even" else "first"
    mine = comparisons.standing(project).where(Comparison.annotator_id == person.id)
    two = {answer.image_id, answer.other_id}
    for row in session.exec(mine.where(col(Comparison.first_id).in_(two))):
        better = row.second_id if row.verdict == "second" else row.first_id
        same = {row.first_id, row.second_id} == two and (row.verdict == "equal") == (
            verdict == "equal"
        )
        at = answer.at is None or in_utc(row.at) == answer.at
        if same and at and (verdict == "equal" or better == answer.image_id):
            return False
    made = comparisons.record(
        session, project, person, answer.image_id, answer.other_id, verdict
    )  # fmt: skip
    if answer.at is not None:
        made.at = answer.at
        session.add(made)
    return True
