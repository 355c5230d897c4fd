"""Tables that `tastemaker score --out` wrote, read as the target of an audit."""

import hashlib
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.database.tables import Version
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.files import (
    is_bare_name,
    is_file,
    sha256_of,
    typed_path,
    unescape_formula,
    write_atomic,
)
from tastemaker.files.damage import AGAIN, PARQUET, unreadable
from tastemaker.files.json_text import json_text
from tastemaker.filtering.shards import Named, is_shard
from tastemaker.scores.references import References

if TYPE_CHECKING:  # imported where it is used: it takes long, and few audits are of tables
    import pyarrow as pa
    import pyarrow.csv

SCORES = "aesthetic_score"
OF_CLASSES = "probability"  # before scores, which were then only carried along
MANIFEST = "manifest.json"  # of a folder of parts
MODEL = "model"
# Whatever the first rows look like: paths of numbers are paths, and scores 0 and 1 are no integers.
TYPES = {"path": "string", SCORES: "float64"}
ENDINGS = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True)
class ScoredTable:
    """A table, or a folder of parts: the `scores` (n,) of its rows in 0–1; `model` and the SHA-256
    of its file, as far as the table names them, else empty; `sha256` of the table's own bytes."""

    path: Path
    scores: NDArray[np.float64]
    model: str
    model_sha256: str
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name

    def paths(self, rows: Sequence[int]) -> dict[int, str]:
        """Row → its path. The table is read again: of a hundred million paths few are asked for."""
        wanted, found = np.array(sorted(set(rows)), np.int64), dict[int, str]()
        start = 0
        for part in _parts(self.path):
            for batch in _batches(part, "path"):
                inside = wanted[(wanted >= start) & (wanted < start + len(batch))]
                cells = batch.take(inside - start).to_pylist()
                if part.suffix.lower() == ".csv":
                    cells = [unescape_formula(str(cell)) for cell in cells]
                found |= zip(inside.tolist(), map(str, cells), strict=True)
                start += len(batch)
        return found

    def require_by(self, version: Version, names: Collection[str]) -> None:
        """Raises `Conflict` for a table that names another model than the version, whose file may
        be called by each of the `names`, as “Anime@v1.0”."""
        other = self.model_sha256 not in ("", version.sha256) or (
            not self.model_sha256 and "@" in self.model and self.model not in names
        )
        if other:
            raise Conflict(
                f"{self.name} was scored by {self.model or 'another model'}, not by "
                f"{version.number}.",
                "Name that version, or score the images again.",
            )

    def require_same(self, sha256: str) -> None:
        """Raises `Conflict` where the table is not the one that had this hash."""
        if sha256 and self.sha256 != sha256:
            raise changed(self.path)


def changed(path: Path) -> Conflict:
    return Conflict(
        f"{path.name} was changed since the audit of it was started, so the audit is not about it.",
        "Bring back the table as it was, or start another audit.",
    )


def picture_file(path: str, root: Path) -> Path | None:
    """The file of a row; a relative path begins in `root`, or beside it."""
    typed = typed_path(path)
    for place in (typed,) if typed.is_absolute() else (root / typed, root.parent / typed):
        if "\0" not in path and is_file(place):
            return place.resolve()
    return None


def picture_archive(path: str, root: Path) -> Named | None:
    """The archive of a row that was scored in one (“00017.tar/cat.jpg”), as rows call it and where
    it lies: in `root`, or beside it."""
    parts = PurePosixPath(path).parts
    for end in range(1, len(parts)):
        name = PurePosixPath(*parts[:end])
        if is_shard(name) and (archive := picture_file(str(name), root)) is not None:
            return str(name), archive
    return None


def known_image(references: References, path: str) -> int | None:
    """The image that the library knows under the path of a row."""
    try:
        return references.find(path).id
    except (NotFound, Conflict):
        return None


def read_table(path: Path) -> ScoredTable:
    """A table, or a folder of parts as `tastemaker score --out` writes them. Raises `NotFound`, and
    `Invalid` for what is no such table, or a folder whose run did not come to its end."""
    from pyarrow import ArrowException

    parts = _parts(path)
    scores, model, model_sha256 = [], "", ""
    for part in parts:
        if part.suffix.lower() not in ENDINGS:
            raise Invalid(f"{part.name} has no known ending.", f"Use {', '.join(ENDINGS)}.")
        try:
            names, about = _described(part)
        except (ArrowException, OSError, ValueError) as error:
            if part.suffix.lower() == ".parquet":
                raise unreadable(part, PARQUET) from error
            raise Invalid(
                f"{part.name} cannot be read as a table.", "`tastemaker score --out` writes one."
            ) from error
        if OF_CLASSES in names[: names.index(SCORES) if SCORES in names else None]:
            raise Invalid(
                f"{part.name} tells classes apart; it holds no scores of the model that made it.",
                "Score the images with a version that scores.",
            )
        for name in ("path", SCORES):
            if name not in names:
                raise Invalid(
                    f"{part.name} has no column “{name}”.",
                    "A table as `tastemaker score --out` writes it is needed.",
                )
        try:
            scores += [batch.cast("float64").to_numpy(zero_copy_only=False)
                       for batch in _batches(part, SCORES)]  # fmt: skip
        except OSError as error:
            raise Invalid(f"{part.name} is cut short or damaged.", AGAIN) from error
        except ArrowException as error:
            raise Invalid(f"The column “{SCORES}” of {part.name} holds no numbers.") from error
        model, model_sha256 = about.get("model", model), about.get("model_sha256", model_sha256)
    joined = np.concatenate([np.empty(0), *scores])
    if not len(joined):
        raise Invalid(f"{path.name} holds no row.")
    if not (np.isfinite(joined) & (joined >= 0) & (joined <= 1)).all():
        raise Invalid(f"The scores in {path.name} are not all in 0–1.", "Give the raw scores.")
    return ScoredTable(path, joined, model, model_sha256, sha256_of_table(path))


def sha256_of_table(path: Path) -> str:
    """Of its bytes, or of the hashes of its parts."""
    parts = [sha256_of(part) for part in _parts(path)]
    return parts[0] if path.is_file() else hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _parts(path: Path) -> list[Path]:
    """The files of a table, in their order."""
    if is_file(path):
        return [path]
    try:
        told = json.loads((path / MANIFEST).read_bytes())
        names = [str(part["file"]) for part in told["parts"]]
        complete = bool(told["complete"])
    except (OSError, ValueError, KeyError, TypeError):
        if path.is_dir():
            what = "A folder of parts holds the manifest.json of `tastemaker score --out`."
            raise NotFound(f"There are no scores in {path}.", what) from None
        raise NotFound(f"There is no file {path}.", "Check the path.") from None
    if strange := [name for name in names if not is_bare_name(name)]:
        raise Invalid(
            f"“{strange[0][:80]}” in the {MANIFEST} of {path.name} is no file of this folder.",
            "Score the images again.",
        )
    files = [path / name for name in names]
    if not complete or not all(map(is_file, files)):
        raise Conflict(
            f"The scores in {path.name} are not whole: the run that wrote them was stopped.",
            "Run it again; it goes on where it was.",
        )
    return files


def _described(part: Path) -> tuple[list[str], dict[str, str]]:
    """The names of the columns, and what the file says of the model: in its metadata, else in the
    first row of a column."""
    if part.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        schema = pq.read_schema(part)
        metadata = schema.metadata or {}
        about = {
            key.decode(): metadata[key].decode()
            for key in (b"model", b"model_sha256")
            if key in metadata
        }
        if not about and MODEL in schema.names:
            first = next((batch for batch in _batches(part, MODEL) if len(batch)), None)
            about = {MODEL: "" if first is None else str(first[0].as_py() or "")}
        return schema.names, about
    if part.suffix.lower() == ".csv":
        first = next(iter(_csv(part)), None)
    else:
        import pyarrow.json

        with part.open("rb") as file:
            first = pyarrow.json.read_json(io.BytesIO(file.readline()))
    if first is None or not len(first):
        return ["path", SCORES], {}
    cell = first[MODEL][0].as_py() if MODEL in first.schema.names else ""
    return first.schema.names, {MODEL: unescape_formula(str(cell or ""))}


def _csv(part: Path, column: str | None = None) -> "pyarrow.csv.CSVStreamingReader":
    """The rows of a CSV file, some at a time: all columns, of which only the first rows may be
    looked at, for types that are not told follow from these; or one."""
    import pyarrow.csv

    only = {"include_columns": [column], "column_types": TYPES} if column else {}
    return pyarrow.csv.open_csv(
        part,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(**only),
    )


def _batches(part: Path, column: str) -> "Iterator[pa.Array]":
    """The cells of one column, some at a time."""
    if part.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(part, pre_buffer=False).iter_batches(columns=[column]):
            yield batch.column(0)
    elif part.suffix.lower() == ".csv":
        for batch in _csv(part, column):
            yield batch.column(0)
    else:
        import pyarrow as pa
        import pyarrow.json

        only = pyarrow.json.ParseOptions(
            explicit_schema=pa.schema([(column, pa.type_for_alias(TYPES[column]))]),
            unexpected_field_behavior="ignore",
        )
        yield from pyarrow.json.read_json(part, parse_options=only)[column].chunks


def sidecar_path(table: Path) -> Path:
    """Where what is promised of a table is written beside it."""
    return table.with_name(f"{table.name}.promise.json")


def write_sidecar(table: Path, promise: dict[str, Any], sha256: str = "") -> Path:
    """Raises `Conflict` where the table is not the one that had this hash, if there is one."""
    if sha256 and sha256_of_table(table) != sha256:
        raise changed(table)
    path = sidecar_path(table)
    write_atomic(path, json_text(promise, indent=2).encode() + b"\n")
    return path
