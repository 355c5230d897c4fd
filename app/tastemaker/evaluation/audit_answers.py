"""Answers of an audit that come in a file: for scripts, and for who scores in another program."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from more_itertools import first
from sqlmodel import Session, col, select

from tastemaker import images, projects, scores
from tastemaker.database.tables import Annotator, Audit, AuditImage, Image, Project
from tastemaker.errors import Invalid, TastemakerError
from tastemaker.files import unescape_formula
from tastemaker.queues import reasons
from tastemaker.queues.audited import answers
from tastemaker.scores import Origin
from tastemaker.scores.references import References
from tastemaker.scores.row_files import read_rows
from tastemaker.scores.score_files import (
    IMAGE_COLUMNS,
    SCORE_COLUMNS,
    BadRow,
    ImportedScores,
    refused,
)


@dataclass(frozen=True)
class Answered:
    """How many answers of a file were recorded, and how many were there already."""

    recorded: int
    unchanged: int


def record_file(session: Session, project: Project, audit: Audit, file: Path) -> Answered:
    """Record the rows of a file (`sha256` or `path`, and `score`) as the answers of the audit's
    person. Raises `BadRows` with every row that cannot be one, and records nothing then: a score
    of an image that was not drawn for this audit is no answer."""
    rows = read_rows(file)
    if not rows:
        raise Invalid(f"{file.name} holds no row.", "A header and rows with `score` are needed.")
    drawn = set(session.exec(select(AuditImage.image_id).where(AuditImage.audit_id == audit.id)))
    person = session.get_one(Annotator, audit.annotator_id)
    references, told = References(session, file.parent), ImportedScores()
    given: dict[int, int] = {}
    for row in references.ahead(rows, lambda row: [_cell(row.cells, IMAGE_COLUMNS)]):
        try:
            if row.fault:
                raise Invalid(row.fault)
            image_id, value = _read(row.cells, references, person)
            if image_id not in drawn:
                raise Invalid("Its image was not drawn for this audit.", "`audit images` lists it.")
            if given.setdefault(image_id, value) != value:
                raise Invalid("Another row gives its image another score.")
        except TastemakerError as error:
            told.bad.append(BadRow(row.where, error.message, error.hint))
    if told.bad:
        raise refused(file, told, len(rows), None, whole=True)
    known = answers(session, audit)
    new = {image_id: value for image_id, value in given.items() if known.get(image_id) != value}
    for image_id, value in new.items():
        scores.record(
            session, project, image_id, person, "set", value, origin=Origin.AUDIT,
            reason=reasons.AUDIT,
        )  # fmt: skip
    return Answered(len(new), len(given) - len(new))


def _cell(cells: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return first((cells[n] for n in names if str(cells.get(n) or "").strip()), None)


def _read(cells: Mapping[str, Any], references: References, person: Annotator) -> tuple[int, int]:
    """The image and the score that a row names."""
    reference = _cell(cells, IMAGE_COLUMNS)
    typed = first((cells[n] for n in SCORE_COLUMNS if str(cells.get(n, "")).strip()), None)
    if reference is None or typed is None:
        raise Invalid("It names no image, or no score.", "Columns sha256 (or path) and score.")
    name = unescape_formula(str(cells.get("annotator") or person.name))
    if name != person.name:
        raise Invalid(f"It is {name}’s score, and the audit is about {person.name}’s taste.")
    return references.find(unescape_formula(str(reference))).id, scores.parse_score(typed)


def to_answer(session: Session, audit: Audit) -> list[dict[str, Any]]:
    """The drawn images without an answer, in the order in which they are asked; what the version
    gives them is not told."""
    known = answers(session, audit)
    rows = session.exec(
        select(Image)
        .join(AuditImage, col(AuditImage.image_id) == Image.id)
        .where(
            AuditImage.audit_id == audit.id,
            ~projects.is_removed(audit.project_id, AuditImage.image_id),
        )
        .order_by(col(AuditImage.position))
    )
    return [
        {
            "image_id": image.id,
            "sha256": image.sha256,
            "path": images.shown_path(session, image),
        }
        for image in rows
        if image.id not in known
    ]
