"""Files of embeddings made elsewhere: `.npy`, `.npz` and `.parquet`, read block by block.

Whatever the size of the file, memory holds one block. Rows have paths: those of a column `path` or
`image_path`, else their numbers from 0. What else a Parquet file tells of a row (its URL, its
caption) goes with it.
"""

import os
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tastemaker.encoding.npy_headers import read_header, rows_of, why_no_npy
from tastemaker.errors import Invalid
from tastemaker.files import is_file, write_atomic
from tastemaker.files.damage import AGAIN, NPZ, PARQUET, unreadable

EMBEDDING_SUFFIXES = frozenset({".npy", ".npz", ".parquet"})
BLOCK = 32768  # rows; in smaller blocks the threads wait for the last one too often
PATH_COLUMNS = ("path", "image_path")
EMBEDDING_COLUMNS = ("embedding", "image_embedding", "emb", "vector")

Vectors = NDArray[np.floating[Any]]
# Paths (n,), vectors (n, D) of any floating-point type, and columns (n rows) that go with them.
T = TypeVar("T")
Block = tuple[pa.Array, Vectors, pa.Table | None]


@dataclass(frozen=True)
class Embeddings:
    """Opened `files`: so many rows of `dim` values. `read(row)` gives the blocks from that row on;
    a missing embedding is a row of NaN. `encoder` and its `fingerprint` where the files say which
    made them; `beside` are the columns of what goes with a row."""

    rows: int
    dim: int
    read: Callable[[int], Iterator[Block]]
    files: tuple[Path, ...] = ()
    encoder: str | None = None
    fingerprint: str | None = None
    beside: pa.Schema = field(default_factory=lambda: pa.schema([]))

    @property
    def blocks(self) -> Iterator[Block]:
        return self.read(0)


def some_rows(blocks: Iterator[Block], skip: int, count: int) -> Iterator[Block]:
    """`count` rows of the blocks after the first `skip`; nothing beyond them is read."""
    for paths, x, carried in blocks:
        here = slice(skip, skip + count)
        skip = max(0, skip - len(x))
        if len(x[here]):
            count -= len(x[here])
            yield paths[here], x[here], carried[here] if carried is not None else None
        del paths, x, carried  # not held while the next block is read
        if not count:
            return


def from_row(files: Iterable[tuple[T, int]], first: int) -> Iterator[tuple[T, int]]:
    """Of files with so many rows each, those from row `first` of all on, each with its own row to
    begin at."""
    for file, rows in files:
        if first < rows:
            yield file, first
        first = max(0, first - rows)


def open_embeddings(source: Path) -> Embeddings:
    """Open a `.npy` array (N, D), or (D,) for one row; an `.npz` with such an array and perhaps one
    of `paths` or `names`; a `.parquet` with a column of lists, or one column for each value
    (`emb_0`, `emb_1`, …). Raises `Invalid`, also on the way where the file turns out to be
    damaged."""
    openers = {".parquet": _open_parquet, ".npz": _open_npz}
    return openers.get(source.suffix.lower(), _open_npy)(source)


def write_embeddings(path: Path, vectors: Sequence[Vectors], paths: Sequence[str]) -> None:
    """Write `embeddings` (N, D) float32 and `paths` (N,) into an `.npz`, whole or not at all."""
    x, names = np.stack(vectors), np.array(paths)
    write_atomic(path, lambda file: np.savez(file, embeddings=x, paths=names))


def _row_numbers(start: int, stop: int) -> pa.Array:
    return pa.array(np.arange(start, stop)).cast(pa.string())


# --- .npy --------------------------------------------------------------------------------------


def _open_npy(source: Path) -> Embeddings:
    x = _mapped(source)
    rows, dim = rows_of(source.name, x.shape, x.dtype)

    def read(first: int) -> Iterator[Block]:
        for start in range(first, rows, BLOCK):
            stop = min(start + BLOCK, rows)
            # Mapped anew each time: the pages of a mapping count as ours until it is let go.
            yield _row_numbers(start, stop), floats(_mapped(source)[start:stop]), None

    return Embeddings(rows, dim, read, (source,))


def _mapped(source: Path) -> NDArray[Any]:
    try:
        x: NDArray[Any] = np.load(source, mmap_mode="r", allow_pickle=False)
        return x[None] if x.ndim == 1 else x
    except (ValueError, OSError, EOFError, AttributeError) as error:  # a zip has no `ndim`
        raise why_no_npy(source) from error


def floats(x: NDArray[Any]) -> Vectors:
    """As they are where torch can read them; float32 where the byte order or width is unusual."""
    usual = x.dtype in (np.float16, np.float32, np.float64)
    with np.errstate(over="ignore"):  # beyond float32: infinite, and told as such
        return x if usual else x.astype(np.float32)


# --- .npz --------------------------------------------------------------------------------------

NPZ_EMBEDDINGS = ("embeddings", *EMBEDDING_COLUMNS, "arr_0")
NPZ_PATHS = ("paths", *PATH_COLUMNS, "names", "filenames")  # the first that is there
# What reading a file as .npz raises where it is damaged; and where it cannot be read, as its arrays
# are odd (ValueError), or it is encrypted or packed in a way unknown to Python (RuntimeError).
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError)
NOT_NPZ = (*DAMAGED, ValueError, RuntimeError)
LONGEST_PATH = 2**14  # bytes; a text of an array takes as many as the longest of them


@dataclass(frozen=True)
class _Member:
    """An array in an `.npz`, as its header tells it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _open_npz(source: Path) -> Embeddings:
    try:
        with zipfile.ZipFile(source) as archive:
            members = [
                _Member(name.removesuffix(".npy"), *_npy_header(file))
                for name in archive.namelist()
                for file in [archive.open(name)]
            ]
    except DAMAGED as error:
        raise unreadable(source, NPZ) from error
    except NOT_NPZ as error:
        raise Invalid(f"{source.name} is not an .npz that can be read: {error}.") from error
    vectors = _chosen(source, members)
    rows, dim = vectors.shape
    paths = _paths(source, members, rows)

    def read(first: int) -> Iterator[Block]:
        start = first
        try:
            with zipfile.ZipFile(source) as archive:
                values = _npy_blocks(archive, vectors, first)
                names = _npy_blocks(archive, paths, first) if paths is not None else None
                for x in values:
                    told = _row_numbers(start, start + len(x))
                    if names is not None:
                        told = _as_text(pa.array(next(names)))
                        told = pc.coalesce(told, _row_numbers(start, start + len(x)))
                    yield told, floats(x), None
                    start += len(x)
        except (*DAMAGED, ValueError) as error:
            raise Invalid(f"{source.name} is damaged after row {start}.", AGAIN) from error

    return Embeddings(rows, dim, read, (source,))


def _paths(source: Path, members: list[_Member], rows: int) -> _Member | None:
    """The array that names so many rows, if there is one. Raises `Invalid` for one that cannot,
    because the rows would lose their names in silence."""
    known = {one.name: one for one in members if one.dtype.kind in "USO"}
    paths = next((known[name] for name in NPZ_PATHS if name in known), None)
    if paths is None:
        return None
    if paths.shape != (rows,):
        raise Invalid(
            f"{source.name} holds {rows:,} embeddings and {paths.shape[0] if paths.shape else 1:,} "
            f"paths in “{paths.name}”.",
            "Write the file again with one path for each, or without that array.",
        )
    if paths.dtype.kind == "O":
        raise Invalid(
            f"The paths in “{paths.name}” of {source.name} are Python objects, which are never "
            "unpacked.",
            f"Write the file again with {paths.name}=np.array({paths.name}, dtype=str).",
        )
    if paths.dtype.itemsize > LONGEST_PATH:
        raise Invalid(
            f"A path in “{paths.name}” of {source.name} is too long to be one.",
            "Write the file again without that array, or with shorter paths.",
        )
    return paths


def _chosen(source: Path, members: list[_Member]) -> _Member:
    """The one array (N, D) of floating-point numbers, or of several the one with a usual name."""
    fitting = [one for one in members if one.dtype.kind == "f" and len(one.shape) == 2]
    usual = [one for name in NPZ_EMBEDDINGS for one in fitting if one.name == name]
    if len(fitting) > 1 and not usual:
        names = ", ".join(one.name for one in fitting)
        raise Invalid(
            f"{source.name} has several arrays of embeddings: {names}.",
            "Call the one to score “embeddings”.",
        )
    if not fitting or not all((usual or fitting)[0].shape):
        raise Invalid(
            f"{source.name} holds no embedding.",
            "An array of floating-point embeddings, (N, D), stored by rows, is needed.",
        )
    return (usual or fitting)[0]


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with file:
        shape, by_columns, dtype = read_header(file)
    return shape if not by_columns or len(shape) < 2 else (), dtype  # what cannot be read by rows


def _npy_blocks(archive: zipfile.ZipFile, member: _Member, first: int) -> Iterator[NDArray[Any]]:
    """The rows of an array in a zip from `first` on, some at a time, without the whole in memory.
    What lies before is passed over, which takes time only where it is packed."""
    with archive.open(f"{member.name}.npy") as file:
        read_header(file)
        row = member.dtype.itemsize * int(np.prod(member.shape[1:]))
        file.seek(first * row, os.SEEK_CUR)
        for start in range(first, member.shape[0], BLOCK):
            count = min(BLOCK, member.shape[0] - start)
            content = file.read(count * row)
            if len(content) < count * row:
                raise EOFError
            yield np.frombuffer(content, member.dtype).reshape(count, *member.shape[1:])


# --- .parquet ----------------------------------------------------------------------------------


def _open_parquet(source: Path) -> Embeddings:
    try:
        # Column chunks are read in pieces: a row group alone may be larger than memory.
        file = pq.ParquetFile(source, buffer_size=2**20, pre_buffer=False)
        single = _single_columns(file.schema_arrow)
        column = "" if single else _embedding_column(file.schema_arrow, source)
        dim = len(single) or _first_length(file, column)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(source, PARQUET) from error
    if dim is None:
        raise Invalid(f"{source.name} holds no embedding in its column “{column}”.")
    names = file.schema_arrow.names
    path = next((name for name in PATH_COLUMNS if name in names), None)
    beside = columns_beside(file.schema_arrow, source)

    def read(first: int) -> Iterator[Block]:
        groups, start = _groups_from(file, first)
        return some_rows(every(groups, start), first - start, file.metadata.num_rows - first)

    def every(groups: range, start: int) -> Iterator[Block]:
        try:
            wanted = [*(single or [column]), *([path] if path else []), *beside.names]
            for batch in file.iter_batches(BLOCK, row_groups=groups, columns=wanted):
                paths = _row_numbers(start, start + len(batch))
                if path is not None:
                    paths = pc.coalesce(_as_text(batch[path]), paths)
                others = [_plain(batch[name]) for name in beside.names]
                told = pa.table(others, schema=beside) if others else None
                if single:
                    each = [batch[name].to_numpy(zero_copy_only=False) for name in single]
                    yield paths, np.stack(each, axis=1), told
                else:
                    yield paths, _vectors(batch[column], dim, source, start), told
                start += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise Invalid(f"{source.name} is damaged after row {start}.", AGAIN) from error

    about = {key.decode(): value.decode() for key, value in (file.metadata.metadata or {}).items()
             if key in (b"encoder", b"encoder_fingerprint")}  # fmt: skip
    return Embeddings(
        file.metadata.num_rows, dim, read, (source,), about.get("encoder"),
        about.get("encoder_fingerprint"), beside,
    )  # fmt: skip


def _groups_from(file: pq.ParquetFile, row: int) -> tuple[range, int]:
    """The row groups from the one that holds a row on, and the first row of these."""
    start = 0
    for group in range(file.num_row_groups):
        after = start + file.metadata.row_group(group).num_rows
        if row < after:
            return range(group, file.num_row_groups), start
        start = after
    return range(0), start


def _single_columns(schema: Any) -> list[str]:
    """The columns of one value each that make an embedding (`emb_0`, `emb_1`, …), in the order of
    their numbers; none where there is a column of lists, or more than one such row of columns."""
    numbered: dict[str, dict[int, str]] = defaultdict(dict)
    for one in schema:
        found = re.fullmatch(r"(.*?)(\d{1,6})", one.name)
        if found and pa.types.is_floating(one.type):
            numbered[found[1]][int(found[2])] = one.name
    rows = [row for row in numbered.values() if len(row) > 1 and sorted(row) == [*range(len(row))]]
    if len(rows) != 1 or any(_is_vector(field.type) for field in schema):
        return []
    return [rows[0][number] for number in range(len(rows[0]))]


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
            hint
            or "A column of lists of floating-point numbers is needed, or one for each value: "
            "emb_0, emb_1, …",
        )
    raise Invalid(
        f"{source.name} has several columns of embeddings: {', '.join(lists)}.",
        "Call the one to score “embedding”.",
    )


def _is_vector(kind: Any) -> bool:
    types = pa.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(is_list and types.is_floating(kind.value_type))


def columns_beside(schema: Any, source: Path) -> pa.Schema:
    """Those of a Parquet file that go with its rows. Raises `Invalid` where it has no vectors."""
    single = _single_columns(schema)
    known = {"path", *(single or [_embedding_column(schema, source)])}
    others = [one for one in schema if one.name not in known and _goes_along(one.type)]
    return pa.schema([(one.name, _plain_type(one.type)) for one in others])


def _goes_along(kind: Any) -> bool:
    """Whether a column can stand in a table of scores: text, numbers, times; no lists, no bytes of
    pictures."""
    types, kind = pa.types, _plain_type(kind)
    return not (types.is_nested(kind) or _is_binary(kind) or types.is_null(kind))


def _is_binary(kind: Any) -> bool:
    types = pa.types
    checks = (
        types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view,
    )  # fmt: skip
    return any(check(kind) for check in checks)


def _plain_type(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _plain(column: pa.Array) -> pa.Array:
    """Not as numbers of a dictionary, which is another one in each block."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


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
