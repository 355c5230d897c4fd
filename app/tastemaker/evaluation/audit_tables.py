"""Tables that `tastemaker score --out` wrote, read as the target of an audit."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tastemaker.database.tables import Version
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.files import is_file, typed_path, unescape_formula, write_atomic
from tastemaker.scores.references import References

SCORES = "aesthetic_score"
ENDINGS = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True)
class ScoredTable:
    """`paths` and `scores` (n,) in 0–1 of a table; `model` and the SHA-256 of its file, as far as
    the table names them, else empty."""

    name: str
    paths: list[str]
    scores: NDArray[np.float64]
    model: str
    model_sha256: str

    def require_by(self, version: Version) -> None:
        """Raises `Conflict` for a table that names another model."""
        other = self.model_sha256 not in ("", version.sha256) or (
            not self.model_sha256
            and "@" in self.model
            and self.model.rpartition("@")[2] != version.number
        )
        if other:
            raise Conflict(
                f"{self.name} was scored by {self.model or 'another model'}, not by "
                f"{version.number}.",
                "Name that version, or score the images again.",
            )


def picture_file(path: str, root: Path) -> Path | None:
    """The file of a row; a relative path begins in `root`, or beside it."""
    typed = typed_path(path)
    for place in (typed,) if typed.is_absolute() else (root / typed, root.parent / typed):
        if "\0" not in path and is_file(place):
            return place.resolve()
    return None


def known_image(references: References, path: str) -> int | None:
    """The image that the library knows under the path of a row."""
    try:
        return references.find(path).id
    except (NotFound, Conflict):
        return None


def read_table(path: Path) -> ScoredTable:
    """Raises `NotFound`, and `Invalid` for what is no such table."""
    if not is_file(path):
        raise NotFound(f"There is no file {path}.", "Check the path.")
    if path.suffix.lower() not in ENDINGS:
        raise Invalid(f"{path.name} has no known ending.", f"Use {', '.join(ENDINGS)}.")
    try:
        table, about = _columns(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Invalid(
            f"{path.name} cannot be read as a table.", "`tastemaker score --out` writes one."
        ) from error
    for name in ("path", SCORES):
        if name not in table.column_names:
            raise Invalid(
                f"{path.name} has no column “{name}”.",
                "A table as `tastemaker score --out` writes it is needed.",
            )
    try:
        scores = table[SCORES].cast(pa.float64()).to_numpy()
        paths = [str(cell) for cell in table["path"].to_pylist()]
    except pa.ArrowException as error:
        raise Invalid(f"The column “{SCORES}” of {path.name} holds no numbers.") from error
    if not len(scores):
        raise Invalid(f"{path.name} holds no row.")
    if not (np.isfinite(scores) & (scores >= 0) & (scores <= 1)).all():
        raise Invalid(f"The scores in {path.name} are not all in 0–1.", "Give the raw scores.")
    if path.suffix.lower() == ".csv":
        paths = [unescape_formula(cell) for cell in paths]
    model = about.get("model", "")
    if not model and "model" in table.column_names:
        model = unescape_formula(str(table["model"][0].as_py() or ""))
    return ScoredTable(path.name, paths, scores, model, about.get("model_sha256", ""))


def _columns(path: Path) -> tuple[pa.Table, dict[str, str]]:
    """The table, and the texts of its metadata."""
    wanted = ("path", SCORES, "model")
    match path.suffix.lower():
        case ".parquet":
            there = pq.read_schema(path)
            table = pq.read_table(path, columns=[name for name in wanted if name in there.names])
            metadata = there.metadata or {}
            return table, {key.decode(): value.decode() for key, value in metadata.items()}
        case ".csv":
            return pyarrow.csv.read_csv(path), {}
        case _:
            return pyarrow.json.read_json(path), {}


def sidecar_path(table: Path) -> Path:
    """Where what is promised of a table is written beside it."""
    return table.with_name(f"{table.name}.promise.json")


def write_sidecar(table: Path, promise: dict[str, Any]) -> Path:
    path = sidecar_path(table)
    write_atomic(path, json.dumps(promise, ensure_ascii=False, indent=2).encode() + b"\n")
    return path
