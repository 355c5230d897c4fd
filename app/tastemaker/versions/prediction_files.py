"""A version's predictions in and out as CSV, JSON lines or Parquet.

Numbers are written so that reading them gives the same ones. A file names the head that
predicted by its SHA-256: predictions come back only to that head, and only for images it has not
predicted yet.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from more_itertools import chunked
from sqlalchemy import Engine
from sqlmodel import Session, col, func, select

from tastemaker import images, projects, versions
from tastemaker.database import sessions
from tastemaker.database.statements import insert_missing
from tastemaker.database.tables import ClassPrediction, Image, Prediction, Version
from tastemaker.errors import Conflict, Invalid, TastemakerError
from tastemaker.files.row_tables import table_bytes
from tastemaker.scores import classes
from tastemaker.scores.references import AT_ONCE, References
from tastemaker.scores.row_files import ENDINGS, check_ending, read_rows, unknown_ending

COLUMNS = {
    "sha256": "string",
    "path": "string",
    "aesthetic_score": "float64",
    "out_of_fold": "float64",
    "uncertainty": "float64",
    "model_sha256": "string",
}
OF_CLASSES = COLUMNS | {"class": "string"}


def rows_of(session: Session, version: Version) -> list[dict[str, Any]]:
    """One row per predicted image: `aesthetic_score` is that of the file (0–1), `out_of_fold`
    that of a head which never saw the image or a relative, where that differs. Of a classifier both
    say how sure it is of the `class` (of tags: of the least certain one)."""
    rows = _scores_of(session, version)
    if not version.classes.numbers:
        return rows
    known = classes.of(session, version.project_id)
    said = select(Image.sha256, ClassPrediction.predicted).join(
        ClassPrediction, col(ClassPrediction.image_id) == Image.id
    )
    told = dict(
        session.execute(said.where(ClassPrediction.version_id == version.id)).tuples().all()
    )
    return [row | {"class": known.words(told.get(row["sha256"]))} for row in rows]


def _scores_of(session: Session, version: Version) -> list[dict[str, Any]]:
    rows = session.execute(
        select(Image, Prediction)
        .join(Prediction, col(Prediction.image_id) == Image.id)
        .where(Prediction.version_id == version.id)
        .order_by(col(Image.id))
    ).all()
    paths = images.shown_paths(session, (image for image, _ in rows))
    return [
        {
            "sha256": image.sha256,
            "path": paths[image.id],
            "aesthetic_score": row.score,
            "out_of_fold": row.out_of_fold,
            "uncertainty": row.uncertainty,
            "model_sha256": version.sha256,
        }
        for image, row in rows
    ]


def prediction_bytes(session: Session, version: Version, ending: str) -> bytes:
    """The predictions as a file of that ending. Raises `Invalid` for an unknown one."""
    if ending not in ENDINGS:
        raise unknown_ending(Path(f"predictions{ending}"))
    columns = OF_CLASSES if version.classes.numbers else COLUMNS
    return table_bytes(rows_of(session, version), columns, ending)


def import_predictions(
    engine: Engine, project_name: str, number: str, file: Path
) -> dict[str, int]:
    """Bring predictions of a version back, all or nothing. Those that are there stay; one that
    another head made, or of an image that is not in the library, refuses the file."""
    check_ending(file)
    rows = read_rows(file)
    if not rows:
        raise Invalid(f"{file.name} holds no row.", "Export predictions to see the columns.")
    with sessions.writing(engine) as session:
        project = projects.by_name(session, project_name)
        classes.check_scores(project)
        version = versions.by_number(session, project, number)
        references = References(session, file.parent)
        before = _count(session, version)

        def read() -> Iterator[dict[str, Any]]:
            for row in references.ahead(rows, lambda row: [row.cells.get("sha256")]):
                try:
                    if row.fault:
                        raise Invalid(row.fault)
                    yield _read(references, version, row.cells)
                except TastemakerError as error:
                    raise type(error)(
                        f"{row.where} of {file.name}: {error.message} Nothing was recorded.",
                        error.hint,
                    ) from error

        for some in chunked(read(), AT_ONCE):
            insert_missing(session, Prediction, some)
        added = _count(session, version) - before
    return {"added": added, "there_already": len(rows) - added}


def _count(session: Session, version: Version) -> int:
    return session.exec(select(func.count()).where(Prediction.version_id == version.id)).one()


def _read(references: References, version: Version, row: dict[str, Any]) -> dict[str, Any]:
    """The prediction that a row is, by column."""
    if row.get("model_sha256") != version.sha256:
        raise Conflict(
            f"It was made by another head than {version.number}.",
            "Import that head first, then its predictions.",
        )
    image = references.find(str(row.get("sha256") or ""))
    out_of_fold = row.get("out_of_fold")
    return {
        "version_id": version.id,
        "image_id": image.id,
        "score": _share(row.get("aesthetic_score")),
        "out_of_fold": None if out_of_fold in (None, "") else _share(out_of_fold),
        "uncertainty": _share(row.get("uncertainty"), most=math.inf),
    }


def _share(text: Any, most: float = 1.0) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not (0 <= value <= most and math.isfinite(value)):
        raise Invalid(f"“{str(text)[:40]}” is not a number from 0 to 1.")
    return value
