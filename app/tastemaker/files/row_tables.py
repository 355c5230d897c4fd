"""Rows written as a file: CSV, JSON lines or Parquet, by its ending.

pyarrow is imported where Parquet is written: it takes a start 0.1 s, and most processes need none.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from tastemaker.files import escape_formula
from tastemaker.files.json_text import json_text


def table_bytes(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], ending: str
) -> bytes:
    """The rows as a file of that ending (`.parquet`, `.jsonl`, else CSV). `columns` are their names
    in order, each with Arrow's name of its type (`string`, `int64`, …), which a Parquet file has.
    In CSV, texts that a spreadsheet would run are made inert."""
    if ending == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        out = io.BytesIO()
        schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in columns.items()])
        pq.write_table(pa.Table.from_pylist(list(rows), schema), out)
        return out.getvalue()
    if ending == ".jsonl":
        return "".join(json_text(row) + "\n" for row in rows).encode()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: escape_formula(cell) if isinstance(cell, str) else cell
                for name, cell in row.items()
            }
        )
    return text.getvalue().encode()
