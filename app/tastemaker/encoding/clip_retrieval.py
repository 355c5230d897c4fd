"""The folders that clip-retrieval makes: `img_emb/img_emb_0.npy` and beside it
`metadata/metadata_0.parquet`, row by row about the same pictures."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tastemaker.encoding.embedding_files import (
    PATH_COLUMNS,
    Block,
    Embeddings,
    from_row,
    open_embeddings,
)
from tastemaker.encoding.embedding_shards import fitted, two_before_ten, unified
from tastemaker.errors import Invalid
from tastemaker.files import is_file
from tastemaker.files.damage import AGAIN, PARQUET, unreadable


@dataclass(frozen=True)
class _Shard:
    vectors: Path
    metadata: Path | None
    rows: int


@dataclass(frozen=True)
class Heads:
    """What the heads of two files say that belong together: the one of `rows` vectors of `dim`
    values, and the one that tells about them (None: there is none)."""

    vectors: str  # their names
    rows: int
    dim: int
    metadata: str = ""
    told: pq.FileMetaData | None = None


def fitting(shards: Iterable[Heads], folder: str) -> pa.Schema:
    """The columns of all metadata of a folder, which is told by its name. Raises `Invalid` where
    vectors and metadata differ in their rows, one is missing, or widths differ."""
    known: list[Heads] = []
    for shard in shards:
        if known and shard.dim != known[0].dim:
            raise Invalid(
                f"{shard.vectors} holds vectors of {shard.dim} values, those before of "
                f"{known[0].dim}.",
                "Score each make of embeddings by itself.",
            )
        if shard.told is not None and shard.told.num_rows != shard.rows:
            raise Invalid(
                f"{shard.vectors} holds {shard.rows:,} vectors, and {shard.metadata} tells of "
                f"{shard.told.num_rows:,}: which belongs to which is not known.",
                "Make the two again, or take them out of the folder.",
            )
        known.append(shard)
    without = [shard.vectors for shard in known if shard.told is None]
    if without and len(without) < len(known):
        raise Invalid(
            f"{without[0]} has no metadata beside it, and others have.",
            "Bring back its metadata file, or take the vectors out of the folder.",
        )
    told = [shard.told.schema.to_arrow_schema() for shard in known if shard.told is not None]
    return unified(told, f"The metadata of {folder} do")


def is_layout(folder: Path) -> bool:
    return bool(_vector_files(folder))


def open_layout(folder: Path, schema: pa.Schema | None = None) -> Embeddings:
    """All shards of a folder as one, in the order of their numbers. A row is called by its
    `image_path` (or `path`), else `img_emb_0.npy/17`; the other columns go with it: those of the
    `schema`, where the folder is only a part of what belongs together. Raises as `fitting`."""
    shards: list[_Shard] = []
    heads: list[Heads] = []

    def opened() -> Iterator[Heads]:
        for vectors in _vector_files(folder):
            one, metadata = open_embeddings(vectors), _metadata_of(vectors)
            told = _head_of(metadata) if metadata is not None else None
            shards.append(_Shard(vectors, metadata, one.rows))
            heads.append(
                Heads(vectors.name, one.rows, one.dim, metadata.name if metadata else "", told)
            )
            yield heads[-1]

    found = fitting(opened(), folder.name)
    columns = found if schema is None else schema
    files = [*(one.vectors for one in shards), *(one.metadata for one in shards if one.metadata)]
    rows = sum(shard.rows for shard in shards)
    return Embeddings(
        rows, heads[0].dim, lambda first: _blocks(shards, columns, first), tuple(files)
    )


def metadata_name(vectors: str) -> str:
    """`metadata_0.parquet` for `img_emb_0.npy`."""
    return re.sub(r"^img_emb(.*)\.npy$", r"metadata\1.parquet", vectors)


def _vector_files(folder: Path) -> list[Path]:
    found = [*folder.glob("img_emb/img_emb_*.npy")] or [*folder.glob("img_emb_*.npy")]
    return sorted(found, key=lambda path: two_before_ten(path.name))


def _metadata_of(vectors: Path) -> Path | None:
    name = metadata_name(vectors.name)
    places = (vectors.parent.parent / "metadata" / name, vectors.with_name(name))
    return next(filter(is_file, places), None)


def _head_of(metadata: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(metadata)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(metadata, PARQUET) from error


def _blocks(shards: list[_Shard], schema: pa.Schema, first: int) -> Iterator[Block]:
    """The rows from `first` on."""
    for shard, start in from_row(((shard, shard.rows) for shard in shards), first):
        opened = open_embeddings(shard.vectors)
        tables = _Rows(shard.metadata) if shard.metadata is not None else None
        if tables is not None:
            tables.skip(start)
        for numbers, x, _ in opened.read(start):
            plain = pc.binary_join_element_wise(shard.vectors.name, numbers, "/")
            if tables is None:
                yield plain, x, None
                continue
            rows = tables.next(len(x))
            name = next((name for name in PATH_COLUMNS if name in rows.column_names), None)
            paths = plain
            if name is not None and _is_text(rows.schema.field(name).type):
                named = rows[name].cast(pa.string()).combine_chunks()
                paths = pc.coalesce(named, plain)
            yield paths, x, fitted(rows, schema, f"The metadata beside {shard.vectors.name} do")


def _is_text(kind: pa.DataType) -> bool:
    """Text in any of the types that pandas and polars write it in."""
    types = pa.types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    checks = (types.is_string, types.is_large_string, types.is_string_view)
    return any(check(kind) for check in checks)


class _Rows:
    """The rows of a Parquet file, as many at a time as are asked for."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, pq.ParquetFile(path, pre_buffer=False)
        self._batches = self._file.iter_batches(8192)
        self._held = self._file.schema_arrow.empty_table()

    def skip(self, count: int) -> None:
        while count:
            count -= len(self.next(min(count, 8192)))

    def next(self, count: int) -> pa.Table:
        try:
            while len(self._held) < count:
                more = pa.Table.from_batches([next(self._batches)])
                self._held = pa.concat_tables([self._held, more])
        except (pa.ArrowException, OSError, StopIteration) as error:
            raise Invalid(f"{self._path.name} is damaged.", AGAIN) from error
        rows, self._held = self._held.slice(0, count), self._held.slice(count)
        return rows
