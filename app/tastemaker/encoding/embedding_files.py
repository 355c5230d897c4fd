"""Files of embeddings made elsewhere: `.npy` and `.parquet`, read block by block.

Whatever the size of the file, memory holds one block. Rows have paths: those of a column `path` or
`image_path`, else their numbers from 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tastemaker.errors import Invalid
from tastemaker.files import is_file, write_atomic

EMBEDDING_SUFFIXES = frozenset({".npy", ".parquet"})
BLOCK = 32768  # rows; in smaller blocks the threads wait for the last one too often
PATH_COLUMNS = ("path", "image_path")
EMBEDDING_COLUMNS = ("embedding", "image_embedding", "emb", "vector")

Vectors = NDArray[np.floating[Any]]
Block = tuple[pa.Array, Vectors]  # paths (n,), vectors (n, D) of any floating-point type


@dataclass(frozen=True)
class Embeddings:
    """An opened file: so many rows of `dim` values. `blocks` can be gone through once; a missing
    embedding is a row of NaN."""

    rows: int
    dim: int
    blocks: Iterator[Block]


def are_normalised(x: Vectors) -> bool:
    """Whether rows of (n, D) have length 1, as float16 keeps it. Raw vectors are many times as
    long, so one such row decides it; rows that are not finite, or zero, do not count."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(x.astype(np.float64), axis=1)
    return bool((np.abs(lengths - 1) < 0.01).any())


def open_embeddings(source: Path) -> Embeddings:
    """Open a `.npy` array (N, D), or (D,) for one row, or a `.parquet` with a column of lists.
    Raises `Invalid`, also on the way where the file turns out to be damaged."""
    return _open_parquet(source) if source.suffix.lower() == ".parquet" else _open_npy(source)


def write_embeddings(path: Path, vectors: Sequence[Vectors], paths: Sequence[str]) -> None:
    """Write `embeddings` (N, D) float32 and `paths` (N,) into an `.npz`, whole or not at all."""
    x, names = np.stack(vectors), np.array(paths)
    write_atomic(path, lambda file: np.savez(file, embeddings=x, paths=names))


def _row_numbers(start: int, stop: int) -> pa.Array:
    return pa.array(np.arange(start, stop)).cast(pa.string())


# --- .npy --------------------------------------------------------------------------------------


def _open_npy(source: Path) -> Embeddings:
    x = _mapped(source)
    needed = "Rows of floating-point embeddings, (N, D), are needed."
    if x.ndim == 2 and not len(x):
        raise Invalid(f"{source.name} is empty: it holds no embedding.", needed)
    if x.ndim != 2 or x.dtype.kind != "f" or not x.size:
        raise Invalid(
            f"{source.name} holds an array of shape {x.shape}, type {x.dtype}.",
            needed,
        )
    rows, dim = x.shape

    def blocks() -> Iterator[Block]:
        for start in range(0, rows, BLOCK):
            stop = min(start + BLOCK, rows)
            # Mapped anew each time: the pages of a mapping count as ours until it is let go.
            yield _row_numbers(start, stop), floats(_mapped(source)[start:stop])

    return Embeddings(rows, dim, blocks())


def _mapped(source: Path) -> NDArray[Any]:
    try:
        x: NDArray[Any] = np.load(source, mmap_mode="r", allow_pickle=False)
        return x[None] if x.ndim == 1 else x
    except (ValueError, OSError, EOFError, AttributeError) as error:  # a zip has no `ndim`
        raise Invalid(f"{source.name} is not a plain .npy array.") from error


def floats(x: NDArray[Any]) -> Vectors:
    """As they are where torch can read them; float32 where the byte order or width is unusual."""
    usual = x.dtype in (np.float16, np.float32, np.float64)
    with np.errstate(over="ignore"):  # beyond float32: infinite, and told as such
        return x if usual else x.astype(np.float32)


# --- .parquet ----------------------------------------------------------------------------------


def _open_parquet(source: Path) -> Embeddings:
    try:
        # Column chunks are read in pieces: a row group alone may be larger than memory.
        file = pq.ParquetFile(source, buffer_size=2**20, pre_buffer=False)
        column = _embedding_column(file.schema_arrow, source)
        dim = _first_length(file, column)
    except (pa.ArrowException, OSError) as error:
        raise Invalid(f"{source.name} is not a Parquet file.") from error
    if dim is None:
        raise Invalid(f"{source.name} holds no embedding in its column “{column}”.")
    names = file.schema_arrow.names
    path = next((name for name in PATH_COLUMNS if name in names), None)

    def blocks() -> Iterator[Block]:
        start = 0
        try:
            for batch in file.iter_batches(BLOCK, columns=[column, path] if path else [column]):
                paths = _row_numbers(start, start + len(batch))
                if path is not None:
                    paths = pc.coalesce(_as_text(batch[path]), paths)
                yield paths, _vectors(batch[column], dim, source, start)
                start += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise Invalid(f"{source.name} is damaged after row {start}.") from error

    return Embeddings(file.metadata.num_rows, dim, blocks())


def _embedding_column(schema: Any, source: Path) -> str:
    """The one column of float lists, or of several the one with a usual name."""
    lists = [field.name for field in schema if _is_vector(field.type)]
    usual = [name for name in EMBEDDING_COLUMNS if name in lists]
    if len(lists) == 1 or usual:
        return (usual or lists)[0]
    if not lists:
        beside = (
            source.parent.parent / "img_emb" / f"{source.stem.replace('metadata', 'img_emb')}.npy"
        )
        hint = f"clip-retrieval keeps them in {beside}." if is_file(beside) else ""
        raise Invalid(
            f"{source.name} has no column of embeddings.",
            hint or "A column of lists of floating-point numbers is needed.",
        )
    raise Invalid(
        f"{source.name} has several columns of embeddings: {', '.join(lists)}.",
        "Call the one to score “embedding”.",
    )


def _is_vector(kind: Any) -> bool:
    types = pa.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list and types.is_floating(kind.value_type))


def _first_length(file: pq.ParquetFile, column: str) -> int | None:
    """The length of the first embedding that is not missing."""
    for batch in file.iter_batches(BLOCK, columns=[column]):
        lengths = pc.list_value_length(batch[column]).drop_null()
        if len(lengths):
            return int(lengths[0].as_py())
    return None


def _as_text(column: pa.Array) -> pa.Array:
    """Paths as text, whatever their type: numbers, or the bytes that a name has on the disk; what
    is neither (lists, bytes that are no text) is missing."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        return pa.nulls(len(column), pa.string())


def _vectors(lists: pa.Array, dim: int, source: Path, start: int) -> Vectors:
    lengths = pc.fill_null(pc.list_value_length(lists), dim).to_numpy(zero_copy_only=False)
    if len(odd := np.flatnonzero(lengths != dim)):
        raise Invalid(
            f"Row {start + odd[0]} of {source.name} holds {lengths[odd[0]]} values; "
            f"the first one holds {dim}."
        )
    there = lists.is_valid().to_numpy(zero_copy_only=False)
    known: Vectors = lists.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    if there.all():
        return known
    x = np.full((len(lists), dim), np.nan, np.float32)
    x[there] = known
    return x
