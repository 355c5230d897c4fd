"""Score pictures or embeddings from outside the library with one head, and filter by the result.

    rows = score_source(folder, read_model(file), settings)
    write(out, within(rows, 60, 100), model)

Rows travel in tables of some thousands, never as one object each, so that a hundred million of
them pass through in bounded memory, in the order of the source. A table has the columns of SCHEMA.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from app.checkpoints import Checkpoint, load_checkpoint, sidecar_path
from app.config import Settings
from app.embedding_files import EMBEDDING_SUFFIXES, open_embeddings
from app.encode_files import embed_files
from app.encoders import Encoder, load, parse
from app.errors import BadImage, Conflict, Invalid, NotFound
from app.heads import Scorer
from app.pictures import IMAGE_SUFFIXES, Limits

Precision = Literal["fp32", "fast"]
OnError = Callable[[str, str], None]  # path, reason
Progress = Callable[[int, int], None]  # rows done, rows in all

SCHEMA = pa.schema(
    [("path", pa.string()), ("aesthetic_score", pa.float32()), ("percent", pa.float32())]
)
PICTURES_AT_ONCE = 32
ROWS_HELD = 65536  # what `best` holds beyond the rows it was asked for


@dataclass(frozen=True)
class Model:
    """A head to score with: its file, its name, and the encoder it needs (None: unknown)."""

    path: Path
    name: str
    encoder: str | None
    fingerprint: str | None
    checkpoint: Checkpoint


def read_model(path: Path) -> Model:
    """A head from a file that nobody vouches for. The encoder it needs is taken from the file's
    metadata, else from its sidecar. Raises `CheckpointError`, `NotFound`."""
    if not path.is_file():
        raise NotFound(f"There is no file {path}.", "Name a .safetensors file or PROJECT@v1.0.")
    checkpoint = load_checkpoint(path)
    if checkpoint.outputs != 1:
        raise Invalid(f"{path.name} tells {checkpoint.outputs} classes apart; it gives no score.")
    said = dict(checkpoint.metadata)
    beside = sidecar_path(path)
    if "encoder" not in said and beside.is_file():
        try:
            encoder = json.loads(beside.read_text(encoding="utf-8")).get("encoder", {})
            said |= {"encoder": encoder["name"], "encoder_fingerprint": encoder["fingerprint"]}
        except (ValueError, TypeError, KeyError, AttributeError, OSError):
            pass  # a sidecar of another make: the person can name the encoder
    name = f"{said['project']}@{said['version']}" if "project" in said else path.stem
    return Model(path, name, said.get("encoder"), said.get("encoder_fingerprint"), checkpoint)


# --- scoring -----------------------------------------------------------------------------------


def score_source(
    source: Path,
    model: Model,
    settings: Settings,
    *,
    encoder: str | None = None,
    precision: Precision = "fp32",
    on_error: OnError = lambda path, reason: None,
    progress: Progress = lambda done, total: None,
) -> Iterator[pa.Table]:
    """Score a folder (all its folders too), one picture, or a file of embeddings, in its order.

    `on_error(path, reason)` hears of the rows that cannot be used. Raises before the first row
    when the source or the encoder cannot be used at all, and after the last if none was of use.
    """
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    scorer = Scorer(model.checkpoint, precision)
    if source.suffix.lower() in EMBEDDING_SUFFIXES and source.is_file():
        rows = _score_embeddings(source, scorer, on_error, progress)
    else:
        rows = _score_pictures(source, scorer, model, settings, encoder, on_error, progress)
    return _some(rows, source)


def _some(tables: Iterable[pa.Table], source: Path) -> Iterator[pa.Table]:
    """The same tables; `Invalid` at the end if there was no row in them."""
    rows = 0
    for table in tables:
        rows += len(table)
        yield table
    if not rows:
        raise Invalid(f"Nothing in {source.name or source} could be scored.")


def _score_embeddings(
    source: Path, scorer: Scorer, on_error: OnError, progress: Progress
) -> Iterator[pa.Table]:
    embeddings = open_embeddings(source)
    if embeddings.dim != scorer.features:
        raise Invalid(
            f"{source.name} holds vectors of {embeddings.dim} values; this head reads "
            f"{scorer.features}.",
            "Embed them with the encoder the head was trained on.",
        )

    def tables() -> Iterator[pa.Table]:
        done = 0
        for paths, x in embeddings.blocks:
            scores = scorer(x)
            strange = np.isnan(scores)
            for path in paths.filter(pa.array(strange)).to_pylist():
                on_error(path, "The embedding holds values that are not finite numbers.")
            yield _table(paths, scores).filter(pa.array(~strange))
            done += len(x)
            progress(done, embeddings.rows)

    return tables()


def _score_pictures(
    source: Path,
    scorer: Scorer,
    model: Model,
    settings: Settings,
    encoder_name: str | None,
    on_error: OnError,
    progress: Progress,
) -> Iterator[pa.Table]:
    base, paths = _pictures_in(source)
    encoder = _encoder_for(model, encoder_name)
    names = [str(path.relative_to(base)) for path in paths]

    def tables() -> Iterator[pa.Table]:
        indices: list[int] = []
        vectors: list[np.ndarray] = []

        def table() -> pa.Table:
            scored = _table(pa.array([names[i] for i in indices]), scorer(np.stack(vectors)))
            indices.clear()
            vectors.clear()
            return scored

        for index, vector in _in_order(
            encoder, paths, Limits.of(settings), lambda i, error: on_error(names[i], str(error))
        ):
            indices.append(index)
            vectors.append(vector)
            progress(index + 1, len(paths))
            if len(indices) == PICTURES_AT_ONCE:
                yield table()
        if indices:
            yield table()
        progress(len(paths), len(paths))

    return tables()


def _pictures_in(source: Path) -> tuple[Path, list[Path]]:
    """The folder that paths are told from, and the pictures; one picture is its own folder's."""
    if not source.exists():
        raise NotFound(f"There is no file or folder {source}.", "Check the path.")
    if source.is_file():
        if source.suffix.lower() not in IMAGE_SUFFIXES:
            raise Invalid(f"{source.name} is not a picture.", "JPEG, PNG, WebP or GIF.")
        return source.parent, [source]
    paths = sorted(
        Path(folder) / name
        for folder, _, names in os.walk(source)
        for name in names
        if Path(name).suffix.lower() in IMAGE_SUFFIXES
    )
    if not paths:
        raise Invalid(f"There is no picture in {source}.", "JPEG, PNG, WebP or GIF.")
    return source, paths


def _encoder_for(model: Model, name: str | None) -> Encoder:
    """The encoder the head was trained on, loaded; an encoder that differs is refused."""
    wanted = name or model.encoder
    if wanted is None:
        raise Invalid(
            f"{model.path.name} does not say which encoder it needs.",
            "Name it with --encoder, as “ViT-L-14-quickgelu/openai”.",
        )
    encoder = load(parse(wanted))
    if model.fingerprint and encoder.fingerprint != model.fingerprint:
        raise Conflict(
            f"{wanted} as it is on this machine is not the encoder {model.name} was trained on; "
            "its scores would be wrong.",
            f"Fingerprint {encoder.fingerprint} here, {model.fingerprint} wanted.",
        )
    if encoder.dim != model.checkpoint.features:
        raise Invalid(
            f"{wanted} gives {encoder.dim} values; {model.path.name} reads "
            f"{model.checkpoint.features}.",
            "Name the encoder the head was trained on with --encoder.",
        )
    return encoder


def _in_order(
    encoder: Encoder, paths: list[Path], limits: Limits, on_error: Callable[[int, BadImage], object]
) -> Iterator[tuple[int, np.ndarray]]:
    """(index, vector) in the order of `paths`; what is done too early waits for its turn."""
    finished: dict[int, np.ndarray | None] = {}
    turn = 0

    def set_aside(index: int, error: BadImage) -> None:
        finished[index] = None
        on_error(index, error)

    def due() -> Iterator[tuple[int, np.ndarray]]:
        nonlocal turn
        while turn in finished:
            vector = finished.pop(turn)
            if vector is not None:
                yield turn, vector
            turn += 1

    for index, vector in embed_files(encoder, paths, limits=limits, on_error=set_aside):
        finished[index] = vector
        yield from due()
    yield from due()


def _table(paths: pa.Array, scores: np.ndarray) -> pa.Table:
    percent = np.round(100 * scores.astype(np.float64), 2).astype(np.float32)
    return pa.Table.from_arrays([paths, pa.array(scores), pa.array(percent)], schema=SCHEMA)


# --- choosing among the rows -------------------------------------------------------------------


def check_limits(low: float, high: float, top: int | None) -> None:
    """`Invalid` unless these can be limits of a percentage and of a number of rows."""
    if not 0 <= low <= high <= 100:
        raise Invalid("--min and --max are percentages with 0 ≤ min ≤ max ≤ 100.")
    if top is not None and top < 1:
        raise Invalid("--top is a number of at least 1.")


def within(tables: Iterable[pa.Table], low: float, high: float) -> Iterator[pa.Table]:
    """Only the rows of `low` ≤ percentage ≤ `high`, compared before it is rounded."""
    for table in tables:
        percent = 100 * table["aesthetic_score"].to_numpy().astype(np.float64)
        yield table.filter(pa.array((low <= percent) & (percent <= high)))


def best(tables: Iterable[pa.Table], most: int | None = None) -> pa.Table:
    """The `most` best rows (None: all), best first; of equal ones the earlier first. Memory holds
    a few times as many."""
    held: list[pa.Table] = [SCHEMA.empty_table()]
    rows = 0
    for table in tables:
        held.append(table)
        rows += len(table)
        if most is not None and rows > 2 * most + ROWS_HELD:
            held = [_ranked(held, most)]
            rows = most
    return _ranked(held, most)


def _ranked(tables: list[pa.Table], most: int | None) -> pa.Table:
    joined = pa.concat_tables(tables)
    order = pc.sort_indices(joined, [("aesthetic_score", "descending")])  # a stable sort
    return joined.take(order[:most]).combine_chunks()


# --- copying -----------------------------------------------------------------------------------


def check_target(source: Path, into: Path) -> None:
    """`Invalid` where copies would become part of the source."""
    base = (source if source.is_dir() else source.parent).resolve()
    if into.resolve() == base or base in into.resolve().parents:
        raise Invalid("The folder to copy into lies inside the source.", "Choose another one.")


def copy_pictures(paths: Iterable[str], source: Path, into: Path, *, keep: bool) -> int:
    """Copy pictures, named by their `paths` under the source, into a folder, keeping the folder
    structure or not. A name that is taken gets a number; nothing is overwritten. Returns how many
    were copied."""
    check_target(source, into)
    base = source if source.is_dir() else source.parent
    into.mkdir(parents=True, exist_ok=True)
    copied = 0
    for path in paths:
        origin = base / path
        target = into / (path if keep else origin.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while target.exists():
            target = target.with_name(f"{origin.stem}-{number}{origin.suffix}")
            number += 1
        shutil.copy2(origin, target)
        copied += 1
    return copied


def as_dicts(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as `--json` prints them."""
    return table.to_pylist()
