"""Folders of embeddings that `tastemaker score --embeddings-out` writes: Parquet files of some
thousand rows, and a manifest that says which encoder made them.

    folder = EmbeddingFolder(path, encoder, fingerprint, dim, source)
    folder.begin()
    for block in folder.kept(key, made): ...          written on the way, or read where it is there
    folder.close(keys)

Vectors are kept in float16, as the library keeps them: scores of them differ by less than 1e-3.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tastemaker.encoding.embedding_files import Block, Embeddings, from_row, open_embeddings
from tastemaker.errors import Conflict, Invalid
from tastemaker.files import (
    is_bare_name,
    is_file,
    require_writable_folder,
    sweep_unfinished,
    write_atomic,
)
from tastemaker.files.addresses import is_address
from tastemaker.files.json_text import json_text

MANIFEST = "manifest.json"
KIND = "embeddings"  # what the manifest says the folder holds
FORM = 1
ROW_GROUP = 8192  # rows; as many are held while writing
INCOMPLETE = b"incomplete"  # in the metadata of a part that lacks some of its pictures


def is_one(folder: Path) -> bool:
    return is_file(folder / MANIFEST) and _read_manifest(folder).get("kind") == KIND


@dataclass(frozen=True)
class Contents:
    """What the manifest of a folder says: its files with their rows, and what made them."""

    parts: tuple[tuple[str, int], ...]
    dim: int
    encoder: str
    fingerprint: str

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in self.parts)


def contents(manifest: bytes, folder: object) -> Contents | None:
    """Those of the folder, which is told by its name; None where it is no folder of embeddings.
    Raises `Conflict` where the run that wrote it did not come to its end."""
    told = _told(manifest)
    if told.get("kind") != KIND:
        return None
    if not told.get("complete"):
        raise Conflict(
            f"{folder} is not whole: the run that embedded the pictures was stopped.",
            "Run it again; it goes on where it was.",
        )
    try:
        parts = tuple((str(part["file"]), int(part["rows"])) for part in told["parts"])
        if not all(is_bare_name(name) for name, _ in parts):
            raise ValueError
        return Contents(parts, int(told["dim"]), told["encoder"], told["encoder_fingerprint"])
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid(
            f"{folder}/{MANIFEST} is damaged.", "Embed the pictures again, into another folder."
        ) from error


def open_folder(folder: Path) -> Embeddings:
    """All parts of a folder as one, in the order of the pictures that were embedded. Raises
    `Conflict` where the run that wrote it did not come to its end, `Invalid` where a part is
    missing or damaged."""
    told = contents((folder / MANIFEST).read_bytes(), folder)
    if told is None:
        raise Invalid(f"{folder} holds no embeddings.", "Name another folder.")
    dim = told.dim
    parts = [(folder / name, rows) for name, rows in told.parts]
    missing = next((file for file, _ in parts if not is_file(file)), None)
    if missing is not None:
        raise Invalid(f"{missing} is missing.", "Embed the pictures again: only it will be done.")

    def read(first: int) -> Iterator[Block]:
        for (file, rows), start in from_row(((part, part[1]) for part in parts), first):
            opened = open_embeddings(file)
            if (opened.rows, opened.dim) != (rows, dim):
                raise Invalid(f"{file} is not as it was written.", "Embed the pictures again.")
            yield from opened.read(start)

    return Embeddings(
        told.rows, dim, read, (folder / MANIFEST, *(file for file, _ in parts)), told.encoder,
        told.fingerprint,
    )  # fmt: skip


def source_of(folder: Path) -> Path | None:
    """Where the pictures lay that a folder of embeddings was made of; None on another machine."""
    told = str(_read_manifest(folder).get("source", folder))
    return None if is_address(told) else Path(told)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        return _told((folder / MANIFEST).read_bytes())
    except OSError:
        return {}


def _told(manifest: bytes) -> dict[str, Any]:
    try:
        told = json.loads(manifest)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


class EmbeddingFolder:
    """A folder that embeddings of one encoder are written to, part by part: several processes may
    write into it, each its own parts, and one closes it."""

    def __init__(self, folder: Path, encoder: str, fingerprint: str, dim: int, source: str) -> None:
        self.folder, self.dim, self.source = folder.absolute(), dim, source
        self.about = {"encoder": encoder, "encoder_fingerprint": fingerprint}

    def begin(self) -> None:
        """Raises `Conflict` where the folder holds something else, embeddings of another encoder
        or of another source; what is there of this one is used."""
        require_writable_folder(self.folder)
        told = _read_manifest(self.folder)
        if told.get("kind") != KIND:
            if self.folder.is_dir() and any(
                path.suffix != ".part" for path in self.folder.iterdir()
            ):
                raise Conflict(
                    f"{self.folder} is not empty, and no embeddings were written there before.",
                    "Name an empty folder, or one that is not there.",
                )
        elif told.get("encoder_fingerprint") != self.about["encoder_fingerprint"]:
            raise Conflict(
                f"{self.folder} holds embeddings of {told.get('encoder')}, not of "
                f"{self.about['encoder']}.",
                "Name another folder.",
            )
        elif told.get("source") != self.source:
            raise Conflict(
                f"{self.folder} holds embeddings of {told.get('source')}, not of {self.source}.",
                "Name another folder; what is there would be removed.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep_unfinished(self.folder)
        self._write_manifest([], complete=False)

    def file(self, key: str) -> Path:
        return self.folder / f"part-{key}.parquet"

    def kept(
        self, key: str, made: Callable[[], Iterator[Block]], whole: Callable[[], bool]
    ) -> Iterator[Block]:
        """The blocks of a part, read where they were written before; else `made`, and written with
        the last of them. Then `whole` tells whether these were all: else it is made anew the next
        time."""
        file = self.file(key)
        if not self.has(key):
            write_atomic(file, lambda out: self._write(out, made(), whole))
        yield from open_embeddings(file).blocks if pq.read_metadata(file).num_rows else ()

    def has(self, key: str) -> bool:
        """Whether a part is there, whole as far as its end tells."""
        try:
            if not is_file(self.file(key)):
                return False
            return INCOMPLETE not in (pq.read_metadata(self.file(key)).metadata or {})
        except (pa.ArrowException, OSError):
            return False

    def _write(self, out: Any, blocks: Iterator[Block], whole: Callable[[], bool]) -> None:
        vector = pa.list_(pa.float16(), self.dim)
        schema = pa.schema([("path", pa.string()), ("embedding", vector)], self.about)
        with pq.ParquetWriter(out, schema, use_dictionary=False, compression="none") as writer:
            held: list[pa.Table] = []
            for paths, x, _ in blocks:
                with np.errstate(over="ignore"):  # beyond float16: infinite, and told when scored
                    flat = pa.array(x.astype(np.float16).ravel())
                rows = pa.FixedSizeListArray.from_arrays(flat, self.dim)
                held.append(pa.table([paths, rows], schema=schema))
                if sum(map(len, held)) >= ROW_GROUP:
                    writer.write_table(pa.concat_tables(held))
                    held.clear()
            if held:
                writer.write_table(pa.concat_tables(held))
            if not whole():
                writer.add_key_value_metadata({INCOMPLETE: b"its archive was not read to its end"})

    def close(self, keys: Sequence[str]) -> None:
        """All parts are there, in this order; those of pictures that are gone are removed."""
        files = [self.file(key) for key in keys]
        for path in set(self.folder.glob("part-*.parquet")) - set(files):
            path.unlink(missing_ok=True)
        self._write_manifest(files, complete=True)

    def _write_manifest(self, files: Sequence[Path], complete: bool) -> None:
        parts = [{"file": file.name, "rows": pq.read_metadata(file).num_rows} for file in files]
        told = {
            "format": FORM, "kind": KIND, "source": self.source, **self.about, "dim": self.dim,
            "dtype": "float16", "complete": complete, "parts": parts,
        }  # fmt: skip
        content = json_text(told, indent=1).encode()
        write_atomic(self.folder / MANIFEST, content)
