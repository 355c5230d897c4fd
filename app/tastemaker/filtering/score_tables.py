"""Tables of scored rows: made, filtered, ranked, written.

Rows travel in tables of some thousands, never as one object each, so that a hundred million of
them pass through in bounded memory. The columns are a contract with scripts.
"""

import codecs
import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from more_itertools import spy
from numpy.typing import NDArray

from tastemaker.errors import Invalid
from tastemaker.files import escape_formula, write_atomic
from tastemaker.files.json_text import json_text
from tastemaker.filtering.class_columns import SHARE, fitting

SCHEMA = pa.schema(
    [("path", pa.string()), ("aesthetic_score", pa.float32()), ("percent", pa.float32())]
)
MODEL = "model"  # the column of a CSV or JSONL that names the head
MEASURES = ("aesthetic_score", "probability")  # of a score, of a class: what a row is ranked by
ROW_GROUP = 131_072  # rows; as many are held while writing, and by `best` beyond what it keeps

Tables = Iterable[pa.Table]


def table(
    paths: pa.Array, scores: NDArray[np.float32], carried: pa.Table | None = None
) -> pa.Table:
    """Paths (n,) and scores (n,) in [0, 1] as a table of SCHEMA; after it the `carried` columns
    that are not called like one of these."""
    percent = np.round(100 * scores.astype(np.float64), 2).astype(np.float32)
    rows = pa.Table.from_arrays([paths, pa.array(scores), pa.array(percent)], schema=SCHEMA)
    if carried is not None:
        for name in carried.column_names:
            if name not in {*rows.column_names, MODEL}:
                rows = rows.append_column(name, carried[name])
    return rows


def measure(schema: pa.Schema) -> str:
    """The column that a table of these columns is limited and ranked by: its own, which stands
    before any that was carried along under such a name."""
    own: str = next(name for name in schema.names if name in MEASURES)
    return own


def as_dicts(rows: pa.Table) -> list[dict[str, Any]]:
    """The rows as `--json` prints them, the percentage to two places; a carried number that is not
    finite is none, for JSON has none such."""
    by = measure(rows.schema)
    for place, column in enumerate(rows.schema):
        if pa.types.is_floating(column.type):
            values = rows.column(place)
            if pa.types.is_float16(column.type):
                values = values.cast(pa.float32())
            finite = pc.if_else(pc.is_finite(values), values, None)
            rows = rows.set_column(place, column.name, finite)
    return [row | {"percent": round(100 * row[by], 2)} for row in rows.to_pylist()]


def with_column(rows: pa.Table, name: str, values: Any) -> pa.Table:
    """With one column more; a carried one of that name gives way, for it would be another's."""
    if name in rows.column_names:
        return rows.set_column(rows.column_names.index(name), name, values)
    return rows.append_column(name, values)


# --- choosing ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Top:
    """How many of the best: a number of rows, or a share (0–1) of all that were scored."""

    rows: int | None = None
    share: float | None = None

    def of(self, scored: int) -> int:
        """So many rows, where so many were scored: a tenth of 5 is one row, not none."""
        if self.rows is not None:
            return self.rows
        return math.ceil((self.share or 0) * scored - 1e-9)


def parse_top(typed: str) -> Top:
    """“100” rows, or “10%” of all. Raises `ValueError` for no number, `Invalid` for a wrong one."""
    bare = typed.strip()
    if bare.endswith("%"):
        percent = float(bare.removesuffix("%"))
        if not 0 < percent <= 100:
            raise Invalid("--top is above 0 % and at most 100 %.", "Write 100, or 10%.")
        return Top(share=percent / 100)
    if int(bare) < 1:
        raise Invalid("--top is a number of at least 1.", "Write 100, or 10%.")
    return Top(rows=int(bare))


def check_limits(low: float, high: float) -> None:
    """`Invalid` unless these can be limits of a percentage between which anything lies."""
    if 0 <= high < low <= 100:
        raise Invalid(
            f"Nothing lies between --min {low:g} and --max {high:g}: they need min ≤ max.",
            "Exchange the two.",
        )
    if not 0 <= low <= high <= 100:
        raise Invalid("--min and --max are percentages with 0 ≤ min ≤ max ≤ 100.")


def within(tables: Tables, low: float, high: float, *, chosen: bool = False) -> Iterator[pa.Table]:
    """Only the rows of `low` ≤ percentage ≤ `high`, compared before it is rounded; with `chosen`,
    of these the ones that a chosen class fits."""
    for rows in fitting(tables) if chosen else tables:
        percent = 100 * rows[measure(rows.schema)].to_numpy().astype(np.float64)
        yield rows.filter(pa.array((low <= percent) & (percent <= high)))


def best(tables: Tables, most: int | None = None) -> pa.Table:
    """The `most` best rows (None: all), best first; of equal ones the earlier first. Memory holds
    a few times as many."""
    ranking = Ranking(most)
    for rows in tables:
        ranking.add(rows)
    return ranking.best()


class Ranking:
    """The best rows of those that pass by, as `best` has them."""

    def __init__(self, most: int | None = None) -> None:
        self._most, self._count = most, 0
        self._held: list[pa.Table] = []

    def add(self, rows: pa.Table) -> None:
        self._held.append(rows)
        self._count += len(rows)
        if self._most is not None and self._count > 2 * self._most + ROW_GROUP:
            self._held = [_ranked(self._held, self._most)]
            self._count = self._most

    def best(self) -> pa.Table:
        return _ranked(self._held, self._most)


def _ranked(tables: list[pa.Table], most: int | None) -> pa.Table:
    joined = pa.concat_tables(tables or [SCHEMA.empty_table()])
    order = pc.sort_indices(joined, [(measure(joined.schema), "descending")])  # a stable sort
    return joined.take(order[:most]).combine_chunks()


# --- writing -----------------------------------------------------------------------------------


def check_ending(path: Path) -> None:
    """`Invalid` unless the name says in which form to write."""
    if path.suffix.lower() not in FORMS:
        raise Invalid(f"{path.name} has no known ending.", "Use .parquet, .csv or .jsonl.")


def write(path: Path, tables: Tables, about: Mapping[str, str]) -> int:
    """Write the rows, as they come, to a `.parquet`, `.csv` or `.jsonl` file; returns how many.

    All or nothing: what lies at `path` is replaced when the last row is written, and stays where
    anything fails before. `about` holds `model` and more: it becomes the metadata of a Parquet
    file, and `model` a column of the others.
    """
    check_ending(path)
    count = 0

    def counted() -> Iterator[pa.Table]:
        nonlocal count
        for rows in tables:
            count += len(rows)
            yield rows

    form = FORMS[path.suffix.lower()]
    write_atomic(path, lambda file: form(file, counted(), about))
    return count


def _write_parquet(file: BinaryIO, tables: Tables, about: Mapping[str, str]) -> None:
    # Paths are all different: a dictionary of them would only be in the way.
    columns, tables = _columns(tables)
    schema = columns.with_metadata(dict(about))
    with pq.ParquetWriter(file, schema, use_dictionary=False) as writer:
        for rows in _gathered(tables):
            writer.write_table(rows.replace_schema_metadata(schema.metadata))


def _columns(tables: Tables) -> tuple[pa.Schema, Tables]:
    """The columns of the rows, told by the first of them, and all rows."""
    first, tables = spy(iter(tables))
    return first[0].schema if first else SCHEMA, tables


def _gathered(tables: Tables) -> Iterator[pa.Table]:
    """The same rows in larger tables: a row group each."""
    held: list[pa.Table] = []
    for rows in tables:
        held.append(rows)
        if sum(map(len, held)) >= ROW_GROUP:
            yield pa.concat_tables(held)
            held.clear()
    if held:
        yield pa.concat_tables(held)


def _write_csv(file: BinaryIO, tables: Tables, about: Mapping[str, str]) -> None:
    columns, tables = _columns(tables)
    by = measure(columns)
    writer = csv.writer(codecs.getwriter("utf-8")(file))
    writer.writerow(map(escape_formula, [*columns.names, MODEL]))
    model = escape_formula(about["model"])
    exact = {by, *(name for name in columns.names if by != MEASURES[0] and name.startswith(SHARE))}
    exact = {name for name in exact if columns.field(name).type == pa.float32()}
    for rows in tables:
        writer.writerows(
            (
                *(
                    f"{value:.6f}" if name in exact and value is not None else _cell(value)
                    for name, value in row.items()
                ),
                model,
            )
            for row in as_dicts(rows)
        )


def _cell(value: object) -> object:
    return value if isinstance(value, int | float | None) else escape_formula(str(value))


def _write_jsonl(file: BinaryIO, tables: Tables, about: Mapping[str, str]) -> None:
    model = {MODEL: about["model"]}
    for rows in tables:
        lines = (json_text(row | model, default=str, ascii_only=True) for row in as_dicts(rows))
        file.writelines(line.encode() + b"\n" for line in lines)


FORMS: dict[str, Callable[[BinaryIO, Tables, Mapping[str, str]], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}
