"""Several files of embeddings as one: those of a folder, or of a pattern.

    embeddings = open_shards([("train-0.parquet", path), ("train-1.parquet", other)])

A row is called by its path where its file tells one, else `train-0.parquet/17`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tastemaker.encoding.embedding_files import Block, Embeddings, from_row, open_embeddings
from tastemaker.errors import Invalid, TastemakerError

APART = "Score each make of embeddings by itself."


@dataclass(frozen=True)
class _Shard:
    name: str
    path: Path
    rows: int
    dim: int


def open_shards(files: Sequence[tuple[str, Path]], columns: pa.Schema | None = None) -> Embeddings:
    """All of them as one, in this order: each the name that its rows are told by, and where it
    lies; with the `columns` of all, where these are only a part of what belongs together. No file
    stays open: there may be thousands. Raises `Invalid` where one cannot be read,
    holds vectors of another width than those before, or was made by another encoder."""
    shards: list[_Shard] = []
    told: list[pa.Schema] = []
    encoders: dict[tuple[str | None, str | None], str] = {}
    for name, path in files:
        try:
            one = open_embeddings(path)
        except TastemakerError as error:
            raise Invalid(error.message.replace(path.name, name, 1), error.hint) from error
        if shards and one.dim != shards[0].dim:
            raise Invalid(
                f"{name} holds vectors of {one.dim} values, those before of {shards[0].dim}.", APART
            )
        encoders.setdefault((one.encoder, one.fingerprint), name)
        shards.append(_Shard(name, path, one.rows, one.dim))
        told.append(one.beside)
    if len(encoders) > 1:
        first, other = list(encoders.values())[:2]
        raise Invalid(f"{first} and {other} do not say the same encoder.", APART)
    schema = unified(told, "The columns of the files do") if columns is None else columns
    ((encoder, fingerprint),) = encoders
    return Embeddings(
        sum(shard.rows for shard in shards), shards[0].dim,
        lambda first: _blocks(shards, schema, first), tuple(path for _, path in files),
        encoder, fingerprint, schema,
    )  # fmt: skip


def two_before_ten(name: str) -> tuple[str, int, str]:
    """How files of embeddings are ordered by their names, which may hold folders."""
    folder, _, own = name.rpartition("/")
    return folder, len(own), own


def _blocks(shards: Iterable[_Shard], schema: pa.Schema, first: int) -> Iterator[Block]:
    """The rows from `first` on."""
    for shard, start in from_row(((shard, shard.rows) for shard in shards), first):
        opened = open_embeddings(shard.path)
        if (opened.rows, opened.dim) != (shard.rows, shard.dim):
            raise Invalid(f"{shard.name} was changed meanwhile.", "Run it again.")
        for paths, x, beside in opened.read(start):
            numbers = pa.array(np.arange(start, start + len(x))).cast(pa.string())
            placed = pc.binary_join_element_wise(shard.name, numbers, "/")
            if len(schema):
                rows = pa.table({"": pa.nulls(len(x))}) if beside is None else beside
                beside = fitted(rows, schema, f"The columns of {shard.name} do")
            yield pc.if_else(pc.equal(paths, numbers), placed, paths), x, beside
            start += len(x)


def unified(schemas: Iterable[pa.Schema], what: str) -> pa.Schema:
    """The columns of all files. `what` begins the sentence where they do not fit each other."""
    try:
        return pa.unify_schemas([pa.schema([]), *schemas], promote_options="permissive")
    except pa.ArrowException as error:
        raise Invalid(f"{what} not fit each other: {str(error).rstrip('.')}.") from error


def fitted(rows: pa.Table, schema: pa.Schema, what: str) -> pa.Table:
    """With every column that any file has. `what` begins the sentence where they do not fit."""
    try:
        columns = [
            rows[field.name].cast(field.type)
            if field.name in rows.column_names
            else pa.nulls(len(rows), field.type)
            for field in schema
        ]
    except pa.ArrowException as error:
        raise Invalid(f"{what} not fit those of others: {str(error).rstrip('.')}.") from error
    return pa.table(columns, schema=schema.remove_metadata())
