"""Tables that people bring, of whatever make: CSV, TSV, JSON lines, JSON, Parquet, read into rows.

A row that cannot be read is a row with a fault, so that all of them can be told at once; what
cannot be a table at all is refused. Names of columns are in lower case, without blanks around.
"""

import csv
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tastemaker.errors import Invalid, NotFound
from tastemaker.files import is_file
from tastemaker.files.damage import PARQUET, unreadable
from tastemaker.files.texts import composed, lines_of, read_text

if TYPE_CHECKING:
    import pyarrow as pa

MOST_BYTES = 256 * 2**20
ENDINGS = (".csv", ".jsonl", ".parquet")  # what is written; .tsv and .json are read as well
DELIMITERS = ",;\t|"
SAYS_DELIMITER = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # the first line of some sheets
LAST = "\x1e"


@dataclass(frozen=True)
class Row:
    """`where` says which it is: “Row 3”, “Line 3”. With a `fault` there are no cells."""

    where: str
    cells: dict[str, Any] = field(default_factory=dict)
    fault: str = ""


def read_rows(file: Path) -> list[Row]:
    """The rows of a `.csv` (with a header; also with `;` or tabs between the cells, or with what a
    line `sep=` before it says), `.jsonl`, `.json` (a list of objects) or `.parquet` file. Rows
    without anything in them are passed over. Raises `Invalid`, `NotFound`."""
    if not is_file(file):
        raise NotFound(f"There is no file {file}.", "Check the path.")
    ending = file.suffix.lower()
    if ending == ".parquet":
        return list(_parquet(file))
    if ending not in (".csv", ".tsv", ".jsonl", ".json"):
        raise unknown_ending(file)
    text = read_text(file, MOST_BYTES).removeprefix("\ufeff")
    if ending == ".jsonl":
        return list(_json_lines(text))
    return list(_json(text, file) if ending == ".json" else _csv(text, file))


def check_ending(file: Path) -> None:
    """Raises `Invalid` for a file whose name does not say its form."""
    if file.suffix.lower() not in ENDINGS:
        raise unknown_ending(file)


def unknown_ending(file: Path) -> Invalid:
    hint = f"Use {', '.join(ENDINGS)}."
    if file.suffix.lower() in (".xlsx", ".xls", ".ods", ".numbers"):
        hint = "Save the sheet as CSV, in UTF-8."
    if file.suffix.lower() in (".safetensors", ".pth", ".pt", ".ckpt"):
        hint = "A model comes in by “versions import”."
    return Invalid(f"{file.name} has no known ending.", hint)


# --- texts ---------------------------------------------------------------------------------------


def _csv(text: str, file: Path) -> Iterator[Row]:
    lines = list(itertools.dropwhile(_blank, lines_of(text)))
    delimiter = ""
    if lines and (sheet := SAYS_DELIMITER.fullmatch(lines[0])):
        delimiter = sheet[1]
        lines = list(itertools.dropwhile(_blank, lines[1:]))
    if not lines:
        return
    try:
        # A last line of our own: a quotation mark that is never closed takes it for text.
        given = (line + "\n" for line in [*lines, LAST])
        header, *rows = csv.reader(given, delimiter=delimiter or _delimiter(lines[0]))
    except csv.Error as error:
        raise Invalid(
            f"{file.name} cannot be read as CSV: {error}.", "Is a quotation mark never closed?"
        ) from error
    names = [_column(name) for name in header]
    for name in names:
        if name and names.count(name) > 1:
            raise Invalid(
                f"{file.name} has the column “{name}” twice.", "Rename or remove one of them."
            )
    if not rows or rows.pop() != [LAST]:
        raise Invalid(
            f"In row {sum(map(bool, rows)) + 1} of {file.name} a quotation mark is opened and "
            "never closed, so the rows beneath it cannot be told apart.",
            "Close it there; in a name that holds one, write it twice.",
        )
    number = 0
    for cells in rows:
        number += bool(cells)
        cells = [cell.strip(" ") for cell in cells]
        if any(cells):
            yield Row(f"Row {number}", dict(zip(names, cells, strict=False)))


def _blank(line: str) -> bool:
    return not line.strip()


def _delimiter(header: str) -> str:
    """What stands between the names of the columns: what does most often."""
    return max(DELIMITERS, key=header.count)


def _column(name: Any) -> str:
    return composed(str(name)).strip().lower()


def _json_lines(text: str) -> Iterator[Row]:
    for number, line in enumerate(lines_of(text), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                yield Row(f"Line {number}", fault="It is not JSON.")
            else:
                yield _object(f"Line {number}", row)


def _json(text: str, file: Path) -> Iterator[Row]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(
            f"{file.name} is not JSON.", "A list of objects is needed; JSON lines end in .jsonl."
        ) from error
    if not isinstance(rows, list):
        raise Invalid(f"{file.name} holds no list.", "A list of objects is needed.")
    for number, row in enumerate(rows, 1):
        yield _object(f"Row {number}", row)


def _object(where: str, row: Any) -> Row:
    if not isinstance(row, dict):
        return Row(where, fault="It is not an object.")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):  # half a character is no text
        return Row(where, fault="It is not JSON.")
    return Row(where, {_column(name): value for name, value in row.items()})


# --- Parquet -------------------------------------------------------------------------------------


def _parquet(file: Path) -> Iterator[Row]:
    if file.stat().st_size > MOST_BYTES:
        raise Invalid(f"{file.name} is larger than {MOST_BYTES // 2**20} MB.", "Split it.")
    import pyarrow as pa  # here, for it takes long, and few files are this one
    import pyarrow.parquet as pq

    try:
        parquet = pq.ParquetFile(file)
        simple = [f.name for f in parquet.schema_arrow if not pa.types.is_nested(f.type)]
        number = 0
        for batch in parquet.iter_batches(columns=simple):
            columns = [_values(column, file) for column in batch.columns]
            names = [_column(name) for name in batch.schema.names]
            for cells in zip(*columns, strict=True):
                number += 1
                if any(cell is not None for cell in cells):
                    yield Row(f"Row {number}", dict(zip(names, cells, strict=True)))
    except (pa.ArrowException, OSError) as error:
        raise unreadable(file, PARQUET) from error


def _values(column: "pa.Array", file: Path) -> list[Any]:
    """A column in Python's own types: times to the microsecond and in UTC, bytes as text, what is
    no number as nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_timestamp(kind):
        column = pc.cast(column, pa.timestamp("us", "UTC" if kind.tz else None), safe=False)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [_text(value) for value in column.to_pylist()]
    if pa.types.is_floating(kind):
        return [value if value == value else None for value in column.to_pylist()]
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError, ImportError) as error:  # a time that Python does not know
        raise Invalid(f"{file.name} holds values that cannot be read: {error}.") from error
    return values


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")
