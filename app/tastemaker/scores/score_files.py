"""Scores in and out as CSV, JSON lines or Parquet. Importing is all or nothing, and what was
exported comes back as it was: each person's scores, and when they were given."""

import csv
import io
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tastemaker import images, projects, scores
from tastemaker.database import sessions
from tastemaker.database.tables import Annotator, Image, Project, ScoreEvent, in_utc
from tastemaker.errors import Invalid, NotFound, TastemakerError
from tastemaker.files import escape_formula, is_file, unescape_formula, write_atomic

COLUMNS = ("sha256", "path", "score", "annotator", "scored_at")
MOST_BYTES = 256 * 2**20
ENDINGS = (".csv", ".jsonl", ".parquet")


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a `.csv` (with a header), `.jsonl` or `.parquet` file. Raises `Invalid`,
    `NotFound`."""
    if not is_file(file):
        raise NotFound(f"There is no file {file}.", "Check the path.")
    if file.stat().st_size > MOST_BYTES:
        raise Invalid(f"{file.name} is larger than {MOST_BYTES // 2**20} MB.", "Split it.")
    if file.suffix.lower() == ".parquet":
        try:
            table: list[dict[str, Any]] = pq.read_table(file).to_pylist()
            return table
        except (pa.ArrowException, OSError) as error:
            raise Invalid(f"{file.name} is not a Parquet file.") from error
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
        raise unknown_ending(file)
    try:
        return list(csv.DictReader(io.StringIO(text)))
    except csv.Error as error:
        raise Invalid(f"{file.name} cannot be read as CSV: {error}.") from error


def import_scores(engine: Engine, project_name: str, file: Path) -> dict[str, int]:
    """Record every row of a file, in one transaction: with a single bad row nothing is recorded,
    and the error names its number. A column `annotator` keeps people apart; `scored_at`, where
    it is given, is kept as the time of the score. An image of the library that is not in the
    project joins it, in a collection of its own. Returns how many were `recorded`, were there
    already (`unchanged`), and were `overruled` by a later row with another score."""
    rows = read_rows(file)
    if not rows:
        raise Invalid(f"{file.name} holds no row.", "A header and rows with `score` are needed.")
    recorded, overruled = 0, 0
    latest: dict[tuple[int, int], int] = {}
    with sessions.writing(engine) as session:
        project = projects.by_name(session, project_name)
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
                image = images.find_by_reference(session, unescape_formula(str(reference)))
                value = scores.parse_score(row["score"])
                _join(session, project, image)
                name = unescape_formula(str(row.get("annotator") or projects.IMPORTED))
                proxy = name == projects.IMPORTED
                person = projects.annotator(session, name, proxy=proxy)
                key = (image.id, person.id)
                overruled += latest.setdefault(key, value) != value
                latest[key] = value
                recorded += scores.record_many(
                    session, project, person, [(image.id, value)], origin=scores.Origin.IMPORT,
                    at=_moment(row.get("scored_at")),
                )  # fmt: skip
            except TastemakerError as error:
                raise Invalid(
                    f"Row {number} of {file.name}: {error.message} Nothing was recorded.",
                    error.hint,
                ) from error
    unchanged = len(rows) - recorded
    return {"recorded": recorded, "unchanged": unchanged, "overruled": overruled}


def _join(session: Session, project: Project, image: Image) -> None:
    """Put an image into the project, unless it is in it or was taken out of it."""
    member = projects.is_member(project.id, col(Image.id), projects.ANY_ROLE, removed_too=True)
    if session.exec(select(Image.id).where(Image.id == image.id, member)).first() is None:
        scored = images.collection_named(session, f"{project.name}: imported scores"[:100])
        projects.add_collection(session, project, scored)
        images.put_in_collection(session, scored.id, image.id)


def _moment(text: Any) -> datetime | None:
    """A time as ISO 8601 writes it; one without a zone is in UTC. None where none is given."""
    if text in (None, ""):
        return None
    try:
        moment = text if isinstance(text, datetime) else datetime.fromisoformat(str(text))
        return in_utc(moment)
    except (ValueError, OverflowError):
        raise Invalid(
            f"“{str(text)[:40]}” is not a point in time.", "Write it as 2026-03-01T12:00:00+00:00."
        ) from None


def check_ending(file: Path) -> None:
    """Raises `Invalid` for a file whose name does not say its form."""
    if file.suffix.lower() not in ENDINGS:
        raise unknown_ending(file)


def unknown_ending(file: Path) -> Invalid:
    return Invalid(f"{file.name} has no known ending.", f"Use {', '.join(ENDINGS)}.")


def export_scores(engine: Engine, project_name: str) -> list[dict[str, Any]]:
    """One row per image and annotator whose score stands, in the order they were given."""
    with sessions.reading(engine) as session:
        return labels_of(session, projects.by_name(session, project_name))


def labels_of(session: Session, project: Project) -> list[dict[str, Any]]:
    """What `export_scores` gives, within a session."""
    events = session.execute(
        scores.standing_events()
        .add_columns(Image, Annotator.name)
        .join(Image, col(Image.id) == ScoreEvent.image_id)
        .join(Annotator, col(Annotator.id) == ScoreEvent.annotator_id)
        .where(ScoreEvent.project_id == project.id, ScoreEvent.kind == "set")
        .order_by(col(ScoreEvent.id))
    ).all()
    newest = {(event.image_id, event.annotator_id): (event, i, a) for event, i, a in events}
    return [
        {
            "sha256": image.sha256,
            "path": images.shown_path(session, image),
            "score": event.value,
            "annotator": name,
            "scored_at": in_utc(event.at).isoformat(),
        }
        for event, image, name in newest.values()
    ]


def score_bytes(rows: list[dict[str, Any]], ending: str) -> bytes:
    """The rows as a file of that ending; cells that a spreadsheet would run are made inert."""
    if ending == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if ending == ".parquet":
        out = io.BytesIO()
        kinds = [pa.int64() if name == "score" else pa.string() for name in COLUMNS]
        schema = pa.schema(list(zip(COLUMNS, kinds, strict=True)))
        pq.write_table(pa.Table.from_pylist(rows, schema), out)
        return out.getvalue()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    for row in rows:
        writer.writerow(row | {key: escape_formula(row[key]) for key in ("path", "annotator")})
    return text.getvalue().encode()


def write_scores(rows: list[dict[str, Any]], to: Path | None) -> None:
    """Write to a file of a known ending, or as CSV to standard output."""
    if to is None:
        sys.stdout.write(score_bytes(rows, ".csv").decode())
    else:
        check_ending(to)
        write_atomic(to, score_bytes(rows, to.suffix.lower()))
