"""Scores in and out as CSV or JSON lines. Importing is all or nothing."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlmodel import col

from app import db, images, projects, scores
from app.errors import Invalid, NotFound, TastemakerError
from app.files import write_atomic
from app.spreadsheets import bare, inert
from app.tables import Annotator, Image

COLUMNS = ("sha256", "path", "score", "annotator", "scored_at")
MOST_BYTES = 256 * 2**20


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a `.csv` (with a header) or `.jsonl` file. Raises `Invalid`, `NotFound`."""
    if not file.is_file():
        raise NotFound(f"There is no file {file}.", "Check the path.")
    if file.stat().st_size > MOST_BYTES:
        raise Invalid(f"{file.name} is larger than {MOST_BYTES // 2**20} MB.", "Split it.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(f"{file.name} is not a text file in UTF-8.") from error
    if file.suffix.lower() == ".jsonl":
        rows = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                json.dumps(row, ensure_ascii=False).encode()  # half a character is no text
            except (ValueError, RecursionError) as error:
                raise Invalid(f"Line {number} of {file.name} is not JSON.") from error
            if not isinstance(row, dict):
                raise Invalid(f"Line {number} of {file.name} is not an object.")
            rows.append(row)
        return rows
    if file.suffix.lower() != ".csv":
        raise Invalid(f"{file.name} has no known ending.", "Use .csv or .jsonl.")
    try:
        return list(csv.DictReader(io.StringIO(text)))
    except csv.Error as error:
        raise Invalid(f"{file.name} cannot be read as CSV: {error}.") from error


def import_scores(engine: Engine, project_name: str, file: Path) -> dict[str, int]:
    """Record every row of a file, in one transaction: with a single bad row nothing is recorded,
    and the error names its number. A column `annotator` keeps people apart."""
    rows = read_rows(file)
    if not rows:
        raise Invalid(f"{file.name} holds no row.", "A header and rows with `score` are needed.")
    recorded = 0
    with db.writing(engine) as session:
        project = projects.named(session, project_name)
        for number, row in enumerate(rows, 1):
            try:
                reference = row.get("sha256") or row.get("path") or row.get("name")
                if not reference:
                    raise Invalid(
                        f"It names no image; its columns are {', '.join(map(str, row))}."[:200],
                        "A column sha256 or path is needed.",
                    )
                if row.get("score") in (None, ""):
                    raise Invalid("It holds no score.")
                image = images.find_by_reference(session, bare(str(reference)))
                value = scores.parse_score(row["score"])
                name = bare(str(row.get("annotator") or projects.IMPORTED))
                stand_in = name == projects.IMPORTED
                person = projects.annotator(session, name, stand_in=stand_in)
                recorded += scores.record_many(
                    session, project, person, [(image.id, value)], origin="import"
                )
            except TastemakerError as error:
                raise Invalid(
                    f"Row {number} of {file.name}: {error.message} Nothing was recorded.",
                    error.hint,
                ) from error
    return {"recorded": recorded, "unchanged": len(rows) - recorded}


def export_scores(engine: Engine, project_name: str) -> list[dict[str, Any]]:
    """One row per image and annotator whose score stands, in the order they were given."""
    with db.reading(engine) as session:
        project = projects.named(session, project_name)
        events = session.execute(
            scores.standing_events()
            .add_columns(Image, Annotator.name)
            .join(Image, col(Image.id) == scores.ScoreEvent.image_id)
            .join(Annotator, col(Annotator.id) == scores.ScoreEvent.annotator_id)
            .where(scores.ScoreEvent.project_id == project.id, scores.ScoreEvent.kind == "set")
            .order_by(col(scores.ScoreEvent.id))
        ).all()
        newest = {(event.image_id, event.annotator_id): (event, i, a) for event, i, a in events}
        return [
            {
                "sha256": image.sha256,
                "path": images.shown_path(session, image),
                "score": event.value,
                "annotator": name,
                "scored_at": event.at.isoformat(),
            }
            for event, image, name in newest.values()
        ]


def write_scores(rows: list[dict[str, Any]], to: Path | None) -> None:
    """Write to a `.csv` or `.jsonl` file, or as CSV to standard output."""
    if to is not None and to.suffix.lower() == ".jsonl":
        write_atomic(to, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode())
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    for row in rows:
        writer.writerow(row | {key: inert(row[key]) for key in ("path", "annotator")})
    if to is None:
        sys.stdout.write(text.getvalue())
    elif to.suffix.lower() == ".csv":
        write_atomic(to, text.getvalue().encode())
    else:
        raise Invalid(f"{to.name} has no known ending.", "Use .csv or .jsonl.")
