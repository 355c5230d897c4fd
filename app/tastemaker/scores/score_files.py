"""Scores in and out as CSV, JSON lines or Parquet. Importing is all or nothing unless one asks for
the good rows alone, and what was exported comes back as it was: each person's scores, and when they
were given."""

import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from more_itertools import chunked, first
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from tastemaker import images, projects, scores
from tastemaker.database import sessions
from tastemaker.database.statements import insert_missing
from tastemaker.database.tables import (
    Annotator,
    CollectionImage,
    Image,
    Project,
    ScoreEvent,
    in_utc,
)
from tastemaker.errors import Invalid, TastemakerError, TooLarge
from tastemaker.files import unescape_formula, write_atomic
from tastemaker.files.row_tables import table_bytes
from tastemaker.scores import classes, imported_tables
from tastemaker.scores.answers import OTHER_PROGRAMS, RATED, RECORDING
from tastemaker.scores.references import References
from tastemaker.scores.row_files import Row, check_ending, read_rows
from tastemaker.scores.scales import Scale, number_in, scale_that_fits

COLUMNS = ("sha256", "path", "score", "annotator", "scored_at")
CLASS_COLUMNS = ("sha256", "path", "class", "annotator", "scored_at")  # of tags, with commas

# What other programs call these columns.
IMAGE_COLUMNS = (
    "sha256", "path", "image_path", "file_path", "filepath", "file", "filename", "file_name",
    "image", "name",
)  # fmt: skip
SCORE_COLUMNS = ("score", "rating", "stars")
NAMES_OF_CLASSES = ("class", "label", "tags", "score")
IDS_PER_QUERY = 5_000
SHOWN = 10  # rows of a preview
MOST_TOLD = 200  # bad rows of different kinds in one answer


class BadRows(Invalid):
    """Rows of a file that cannot be used: nothing was recorded."""

    def __init__(self, message: str, hint: str, bad: list["BadRow"]) -> None:
        super().__init__(message, hint)
        self.bad = bad


@dataclass(frozen=True)
class BadRow:
    """`where` it is, as “Row 3”, why it cannot be used, and what to do."""

    where: str
    reason: str
    hint: str = ""


@dataclass(frozen=True)
class ColumnNames:
    """What the columns of a table are called; empty for the usual names."""

    image: str = ""
    score: str = ""

    def of_image(self) -> tuple[str, ...]:
        return (self.image.strip().lower(),) if self.image.strip() else IMAGE_COLUMNS

    def of_score(self) -> tuple[str, ...]:
        return (self.score.strip().lower(),) if self.score.strip() else SCORE_COLUMNS


@dataclass(frozen=True)
class ShownRow:
    """A row of a preview: where it is, what its cells say, and the score, or the number of the
    class, that would be recorded with how it is called, or why none is."""

    where: str
    image: str
    typed: str
    score: int | None
    reason: str = ""
    words: str = ""


@dataclass
class ImportedScores:
    """How many scores were `recorded`, were there already (`unchanged`), and were `overruled` by a
    later row with another score; the rows that were left out (`bad`); the `lowest` and `highest`
    value found, as it is in the file, and whether any lies `between` two whole numbers; how many
    images were found by how their paths end; how many answers name no person (`nameless`); the
    number under which the `table` is taken back, 0 with nothing recorded. Of a preview, the first
    rows are `shown`."""

    recorded: int = 0
    unchanged: int = 0
    overruled: int = 0
    lowest: float | None = None
    highest: float | None = None
    between: bool = False
    by_ending: int = 0
    nameless: int = 0
    table: int = 0
    bad: list[BadRow] = field(default_factory=list)
    shown: list[ShownRow] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def found(self, value: Any) -> None:
        number = number_in(value)
        if number is not None:
            self.between |= not number.is_integer()
            self.lowest = number if self.lowest is None else min(self.lowest, number)
            self.highest = number if self.highest is None else max(self.highest, number)

    def range_line(self, scaled: bool) -> str:
        """What range was found, and what to do if it is another scale's and none was given
        (`scaled`); empty where none was found."""
        if self.lowest is None or self.highest is None:
            return ""
        told = f"The scores in the file go from {self.lowest:g} to {self.highest:g}."
        if self.lowest == self.highest:
            told = f"All scores in the file are {self.lowest:g}."
        fits = scale_that_fits(self.lowest, self.highest)
        if fits and not scaled:
            told += f" If they are on the scale {fits}, say so (--scale {fits})."
        elif self.between and not scaled:
            told += " To round them to whole scores, say so (--scale 0-10)."
        return told


def import_scores(
    engine: Engine,
    project_name: str,
    file: Path,
    *,
    scale: Scale | None = None,
    skip_bad_rows: bool = False,
    most_rows: int | None = None,
    columns: ColumnNames = ColumnNames(),
    preview: bool = False,
    as_hints: bool = False,
    called: str = "",
) -> ImportedScores:
    """Record every row of a file, in one transaction. With bad rows in it nothing is recorded, and
    `BadRows` names each; with `skip_bad_rows` the others are recorded. A column `annotator` keeps
    people apart; `scored_at`, where it is given, is kept as the time of the score. Scores are on
    0–10 unless a `scale` says otherwise. An image of the library that is not in the project joins
    it, in a collection of its own. A `preview` records nothing and shows the first rows.
    `as_hints`, the scores are another program's marks: nobody's, and no labels. What was recorded
    is taken back as one (`imported_tables`), under the name of the file, or what it is `called`."""
    rows = read_rows(file)
    if not rows:
        raise Invalid(
            f"{file.name} holds no row beneath its first line.",
            "The first line names the columns: path and score; the rows follow.",
        )
    if most_rows is not None and len(rows) > most_rows:
        raise TooLarge(
            f"{file.name} holds {len(rows):,} rows; at most {most_rows:,} are taken at once.",
            "Split it, or use `tastemaker scores import` on the machine of the server.",
        )
    told = ImportedScores()
    with sessions.reading(engine) as session:
        project = projects.by_name(session, project_name)
        if as_hints and project.labelling != "scores":
            raise Invalid("Hints are scores, and these are classes.", "Leave --as-hints out.")
        references = References(session, file.parent)
        reading = reading_of(session, project, scale, columns)
        good = _good_rows(rows, references, reading, told)
        if preview:
            told.shown = [_shown(row, references, reading) for row in rows[:SHOWN]]
            return told
    if told.bad and (not skip_bad_rows or not good):
        raise refused(file, told, len(rows), scale)
    with sessions.writing(engine) as session:
        project = projects.get(session, project.id)
        if as_hints:
            good = [row._replace(person=OTHER_PROGRAMS) for row in good]
        _record(session, project, good, told, RATED if as_hints else "set", called or file.name)
    return told


class GoodRow(NamedTuple):
    """What a row says: the image, the label as an event holds it (`database.tables.ScoreEvent`),
    whose it is, and when it was given."""

    image_id: int
    value: int
    person: str
    at: datetime | None


class Reading(NamedTuple):
    """How a file is read: the columns that may name the image, and those that may hold the label;
    what a cell of the latter means, and that in `words`; and `what` it is, in a column that may be
    `called` so."""

    image: tuple[str, ...]
    label: tuple[str, ...]
    value: Callable[[Any], int]
    words: Callable[[int], str]
    what: str
    called: str


def reading_of(
    session: Session, project: Project, scale: Scale | None, columns: ColumnNames
) -> Reading:
    """How a project reads a file. Raises `Invalid` for a scale of classes."""
    if project.labelling == "scores":
        value = scores.parse_score if scale is None else scale.score
        called = columns.score or "score"
        return Reading(columns.of_image(), columns.of_score(), value, str, "score", called)
    if scale is not None:
        raise Invalid("Classes are on no scale.", "Leave --scale out.")
    known = classes.of(session, project.id)
    named = columns.of_score() if columns.score.strip() else NAMES_OF_CLASSES
    return Reading(
        columns.of_image(), named, lambda cell: known.parse(unescape_formula(str(cell))),
        known.words, "class", columns.score or "class",
    )  # fmt: skip


def _good_rows(
    rows: list[Row], references: References, reading: Reading, told: ImportedScores
) -> list[GoodRow]:
    """The rows that can be recorded; the others are told, with all that was found."""
    good: list[GoodRow] = []
    for row in references.ahead(rows, lambda row: [_cell(row, reading.image)]):
        try:
            good.append(_read(row, references, reading, told))
        except TastemakerError as error:
            told.bad.append(BadRow(row.where, error.message, error.hint))
    told.by_ending = references.by_ending
    return good


def _shown(row: Row, references: References, reading: Reading) -> ShownRow:
    image, typed = (str(_cell(row, names) or "") for names in (reading.image, reading.label))
    try:
        score = _read(row, references, reading, ImportedScores()).value
    except TastemakerError as error:
        return ShownRow(row.where, image, typed, None, error.message)
    return ShownRow(row.where, image, typed, score, words=reading.words(score))


def _cell(row: Row, names: Sequence[str]) -> Any:
    return first((row.cells[name] for name in names if _given(row.cells.get(name))), None)


def _read(row: Row, references: References, reading: Reading, told: ImportedScores) -> GoodRow:
    """Raises what is wrong with the row."""
    if row.fault:
        raise Invalid(row.fault)
    reference, typed = _cell(row, reading.image), _cell(row, reading.label)
    if reading.what == "score":
        told.found(typed)
    if reference is None:
        wanted = "sha256 or path" if reading.image == IMAGE_COLUMNS else reading.image[0]
        names = f"A column {wanted} is needed."
        raise Invalid(f"It names no image; its columns are {', '.join(row.cells)}."[:200], names)
    if typed is None:
        raise Invalid(f"It holds no {reading.what}.", f"A column {reading.called} is needed.")
    image = references.find(unescape_formula(str(reference)))
    value = reading.value(typed)
    name = unescape_formula(str(row.cells.get("annotator") or projects.IMPORTED))
    return GoodRow(image.id, value, name, moment(row.cells.get("scored_at")))


def _record(
    session: Session, project: Project, good: list[GoodRow], told: ImportedScores, kind: str,
    called: str,
) -> None:  # fmt: skip
    hints = f"{RECORDING}table-{secrets.token_hex(8)}:0" if kind == RATED else None
    table = imported_tables.begin(session, project, called, group=hints)
    group = table.payload["group"]
    latest: dict[tuple[int, int], int] = {}
    people = {
        name: projects.annotator(session, name, proxy=name in (projects.IMPORTED, OTHER_PROGRAMS))
        for name in {row.person for row in good}
    }
    _join(session, project, sorted({row.image_id for row in good}))
    given = [scores.Given(r.image_id, people[r.person].id, r.value, kind, r.at) for r in good]
    written = scores.record_many(session, project, given, origin=scores.Origin.IMPORT, group=group)
    for one in given:
        key = (one.image_id, one.annotator_id)
        told.overruled += latest.setdefault(key, one.value) != one.value
        latest[key] = one.value
    new = [one.image_id for one, is_new in zip(given, written, strict=True) if is_new]
    told.table = imported_tables.finish(session, project, table, new)
    told.recorded += sum(written)
    told.unchanged += len(written) - sum(written)


def _given(cell: Any) -> bool:
    return cell is not None and str(cell).strip() != ""


def refused(
    file: Path, told: ImportedScores, rows: int, scale: Scale | None, *, whole: bool = False
) -> BadRows:
    """All bad rows in one answer; those with the same fault together. `whole`: the others cannot be
    recorded alone."""
    together: dict[str, list[str]] = {}
    for bad in told.bad:
        together.setdefault(bad.reason, []).append(bad.where)
    if len(told.bad) == 1:
        message = f"{told.bad[0].where} of {file.name}: {told.bad[0].reason} Nothing was recorded."
    else:
        lines = [
            f"{', '.join(where[:10])}{f' and {len(where) - 10:,} more' * (len(where) > 10)}: "
            f"{reason}"
            for reason, where in together.items()
        ]
        more = [f"… and {len(lines) - MOST_TOLD:,} more"] if len(lines) > MOST_TOLD else []
        message = "\n".join(
            [
                f"{len(told.bad):,} of the {rows:,} rows of {file.name} cannot be used, so nothing "
                "was recorded:",
                *lines[:MOST_TOLD],
                *more,
            ]
        )
    ways = [first((bad.hint for bad in told.bad if bad.hint), "")]
    if any("scale" in bad.reason or "not a score" in bad.reason for bad in told.bad):
        ways.append(told.range_line(scale is not None))
    if len(told.bad) < rows and not whole:
        ways.append("To record the other rows alone, say so (--skip-bad-rows).")
    return BadRows(message, " ".join(way for way in ways if way), told.bad)


def _join(session: Session, project: Project, image_ids: Sequence[int]) -> None:
    """Put images into the project, except those that are in it or were taken out of it."""
    member = projects.is_member(project.id, col(Image.id), projects.ANY_ROLE, removed_too=True)
    outside = [
        image_id
        for some in chunked(image_ids, IDS_PER_QUERY)
        for image_id in session.exec(select(Image.id).where(col(Image.id).in_(some), ~member))
    ]
    if outside:
        scored = images.collection_named(session, f"{project.name}: imported scores"[:100])
        projects.add_collection(session, project, scored)
        rows = [{"collection_id": scored.id, "image_id": image_id} for image_id in outside]
        insert_missing(session, CollectionImage, rows)


def moment(text: Any) -> datetime | None:
    """A time as ISO 8601 writes it; one without a zone is in UTC. None where none is given."""
    if text in (None, ""):
        return None
    try:
        moment = text if isinstance(text, datetime) else datetime.fromisoformat(str(text).strip())
        return in_utc(moment)
    except (ValueError, OverflowError):
        raise Invalid(
            f"“{str(text)[:40]}” is not a point in time.", "Write it as 2026-03-01T12:00:00+00:00."
        ) from None


def export_scores(engine: Engine, project_name: str) -> list[dict[str, Any]]:
    """One row per image and annotator whose score, or class, stands, in the order they were
    given."""
    with sessions.reading(engine) as session:
        return labels_of(session, projects.by_name(session, project_name))


def labels_of(session: Session, project: Project) -> list[dict[str, Any]]:
    """The rows that `export_scores` gives, within a session."""
    events = session.execute(
        scores.standing_events()
        .add_columns(Image, Annotator.name)
        .join(Image, col(Image.id) == ScoreEvent.image_id)
        .join(Annotator, col(Annotator.id) == ScoreEvent.annotator_id)
        .where(ScoreEvent.project_id == project.id, ScoreEvent.kind == "set")
        .order_by(col(ScoreEvent.id))
    ).all()
    newest = {(event.image_id, event.annotator_id): (event, i, a) for event, i, a in events}
    known = classes.of_project(session, project)
    paths = images.shown_paths(session, {i.id: i for _, i, _ in newest.values()}.values())
    rows = [
        {
            "sha256": image.sha256,
            "path": paths[image.id],
            **({"class": known.in_file(event.value)} if known else {"score": event.value}),
            "annotator": name,
            "scored_at": in_utc(event.at).isoformat(),
        }
        for event, image, name in newest.values()
    ]
    return [row for row in rows if row.get("class", "there")]  # not where the class is gone


def columns_of(project: Project) -> Sequence[str]:
    """The columns of the labels of a project, as `labels_of` gives them."""
    return COLUMNS if project.labelling == "scores" else CLASS_COLUMNS


def score_bytes(
    rows: list[dict[str, Any]], ending: str, columns: Sequence[str] | None = None
) -> bytes:
    """The rows as a file of that ending, without `columns` those that the first one has."""
    columns = columns or (list(rows[0]) if rows else COLUMNS)
    whole = ("score", "bound")
    kinds = {name: "int64" if name in whole else "string" for name in columns}
    return table_bytes(rows, kinds, ending)


def write_scores(
    rows: list[dict[str, Any]], to: Path | None, columns: Sequence[str] | None = None
) -> None:
    """Write to a file of a known ending, or as CSV to standard output."""
    if to is None:
        sys.stdout.flush()
        out = getattr(sys.stdout, "buffer", None)  # a table is in UTF-8, whatever the terminal is
        table = score_bytes(rows, ".csv", columns)
        sys.stdout.write(table.decode()) if out is None else out.write(table)
    else:
        check_ending(to)
        write_atomic(to, score_bytes(rows, to.suffix.lower(), columns))
