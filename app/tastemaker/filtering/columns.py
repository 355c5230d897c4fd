"""Columns by the names that other programs read, beside ours.

Our `aesthetic_score` is in 0–1; what LAION and its followers publish is in points of 0–10, so the
columns of their names hold ten times as much.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tastemaker.errors import Invalid
from tastemaker.filtering.score_tables import Tables, with_column

# The name of a set → its column in points: laion2B-en-aesthetic has `aesthetic`, and what was
# inferred over LAION-5B by embedding-reader has `prediction`.
POINTS = {"laion": "aesthetic", "prediction": "prediction"}
WEBDATASET = "webdataset"
URL, KEY = "__url__", "__key__"
KINDS = (*POINTS, WEBDATASET)
ADDED = (*POINTS.values(), URL, KEY)  # how the columns are called


@dataclass(frozen=True)
class Columns:
    """Which sets of columns are added to a table."""

    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise Invalid(f"There are no columns “{kind}”.", f"There are: {', '.join(KINDS)}.")

    @property
    def as_run(self) -> dict[str, Any]:
        """What a manifest says of them."""
        return {"columns": list(self.kinds)} if self.kinds else {}

    def check_classes(self) -> None:
        """Raises `Invalid` where a head of classes is to fill a column of scores."""
        for kind in self.kinds:
            if kind in POINTS:
                raise Invalid(
                    f"The column of “{kind}” holds scores, and this head tells classes apart.",
                    f"Leave out --columns {kind}.",
                )

    def added(self, tables: Tables) -> Iterator[pa.Table]:
        for rows in tables:
            for kind in self.kinds:
                rows = _of_shards(rows) if kind == WEBDATASET else _in_points(rows, POINTS[kind])
            yield rows


def _in_points(rows: pa.Table, name: str) -> pa.Table:
    points = pc.multiply(rows["aesthetic_score"], pa.scalar(10, pa.float32()))
    return with_column(rows, name, points)


def _of_shards(rows: pa.Table) -> pa.Table:
    """`__url__`, the archive as it was named, and `__key__`, by which webdataset knows a sample:
    the name of the member up to the first dot of its last part. Null where it is in no archive."""
    found = pc.extract_regex(
        rows["path"],
        r"(?i)^(?P<url>.*?\.(?:tar|tar\.gz|tgz|zip|cbz))/(?P<key>(?:.*/)?[^/]*?)\.[^/]*$",
    )
    rows = with_column(rows, URL, pc.struct_field(found, "url"))
    return with_column(rows, KEY, pc.struct_field(found, "key"))
