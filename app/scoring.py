"""Score pictures or embeddings from outside the library with one head, and filter by the result.

The pass is streamed: whatever the size of the source, memory holds one batch.
"""

import csv
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from app.checkpoints import Checkpoint, load_checkpoint
from app.config import Settings
from app.encode_files import embed_files
from app.encoders import load, parse
from app.errors import Conflict, Invalid, NotFound
from app.files import write_atomic
from app.heads import Scorer
from app.pictures import IMAGE_SUFFIXES, Limits

Precision = Literal["fp32", "fast"]


@dataclass(frozen=True)
class Model:
    """A head to score with: its file, its name, and the encoder it needs (None: unknown)."""

    path: Path
    name: str
    encoder: str | None
    fingerprint: str | None
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Scored:
    """One row of the answer: the path as found under the source, the score in [0, 1]."""

    path: str
    score: float

    @property
    def percent(self) -> float:
        return round(100 * self.score, 2)


def read_model(path: Path) -> Model:
    """A head from a file that nobody vouches for. The encoder it needs is taken from the file's
    metadata, else from its sidecar. Raises `CheckpointError`, `NotFound`."""
    if not path.is_file():
        raise NotFound(f"There is no file {path}.", "Name a .safetensors file or PROJECT@v1.0.")
    checkpoint = load_checkpoint(path)
    if checkpoint.outputs != 1:
        raise Invalid(f"{path.name} tells {checkpoint.outputs} classes apart; it gives no score.")
    said = dict(checkpoint.metadata)
    sidecar = path.with_name(path.name.removesuffix(".safetensors") + ".config.json")
    if "encoder" not in said and sidecar.is_file():
        try:
            beside = json.loads(sidecar.read_text(encoding="utf-8")).get("encoder", {})
            said |= {"encoder": beside["name"], "encoder_fingerprint": beside["fingerprint"]}
        except (ValueError, TypeError, KeyError, AttributeError, OSError):
            pass  # a sidecar of another make: the person can name the encoder
    name = f"{said['project']}@{said['version']}" if "project" in said else path.stem
    return Model(path, name, said.get("encoder"), said.get("encoder_fingerprint"), checkpoint)


def score_source(
    source: Path,
    model: Model,
    settings: Settings,
    *,
    encoder: str | None = None,
    precision: Precision = "fp32",
    on_error: Callable[[str, str], None] = lambda path, reason: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Scored]:
    """Score a folder (all its folders too), one picture, or an `.npy` of embeddings (N, D).

    Pictures come in the order they get done; `on_error(path, reason)` hears of those that cannot
    be used. Raises before the first row when the source or the encoder cannot be used at all.
    """
    scorer = Scorer(model.checkpoint, precision)
    if source.suffix.lower() == ".npy" and source.is_file():
        return _score_vectors(source, scorer, progress)
    return _score_pictures(source, scorer, model, settings, encoder, on_error, progress)


def _score_vectors(
    source: Path, scorer: Scorer, progress: Callable[[int, int], None]
) -> Iterator[Scored]:
    try:
        x = np.load(source, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise Invalid(f"{source.name} is not a plain .npy array.") from error
    if x.ndim == 1:
        x = x[None]
    if x.ndim != 2 or x.dtype.kind != "f" or not len(x):
        raise Invalid(
            f"{source.name} holds an array of shape {x.shape}, type {x.dtype}.",
            "Rows of floating-point embeddings, (N, D), are needed.",
        )
    if x.shape[1] != scorer.features:
        raise Invalid(
            f"{source.name} holds vectors of {x.shape[1]} values; this head reads "
            f"{scorer.features}.",
            "Embed them with the encoder the head was trained on.",
        )
    return _vector_rows(x, scorer, progress)


def _vector_rows(
    x: np.ndarray, scorer: Scorer, progress: Callable[[int, int], None]
) -> Iterator[Scored]:
    for start in range(0, len(x), 65536):
        scores = scorer(x[start : start + 65536])
        for row, score in enumerate(scores.tolist(), start):
            yield Scored(str(row), score)
        progress(start + len(scores), len(x))


def _score_pictures(
    source: Path,
    scorer: Scorer,
    model: Model,
    settings: Settings,
    encoder_name: str | None,
    on_error: Callable[[str, str], None],
    progress: Callable[[int, int], None],
) -> Iterator[Scored]:
    if not source.exists():
        raise NotFound(f"There is no file or folder {source}.", "Check the path.")
    if source.is_file():
        if source.suffix.lower() not in IMAGE_SUFFIXES:
            raise Invalid(f"{source.name} is not a picture.", "JPEG, PNG, WebP or GIF.")
        base, paths = source.parent, [source]
    else:
        base = source
        paths = sorted(
            Path(folder) / name
            for folder, _, names in os.walk(source)
            for name in names
            if Path(name).suffix.lower() in IMAGE_SUFFIXES
        )
        if not paths:
            raise Invalid(f"There is no picture in {source}.", "JPEG, PNG, WebP or GIF.")
    wanted = encoder_name or model.encoder
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
    if encoder.dim != scorer.features:
        raise Invalid(
            f"{wanted} gives {encoder.dim} values; {model.path.name} reads {scorer.features}.",
            "Name the encoder the head was trained on with --encoder.",
        )
    return _picture_rows(paths, base, encoder, scorer, Limits.of(settings), on_error, progress)


def _picture_rows(
    paths: list[Path],
    base: Path,
    encoder: Any,
    scorer: Scorer,
    limits: Limits,
    on_error: Callable[[str, str], None],
    progress: Callable[[int, int], None],
) -> Iterator[Scored]:
    done = 0

    def failed(index: int, error: Exception) -> None:
        nonlocal done
        done += 1
        on_error(str(paths[index].relative_to(base)), str(error))

    for index, vector in embed_files(encoder, paths, limits=limits, on_error=failed):
        done += 1
        yield Scored(str(paths[index].relative_to(base)), float(scorer(vector[None])[0]))
        progress(done, len(paths))


# --- what to do with the scores ----------------------------------------------------------------


def within(rows: list[Scored], low: float, high: float, top: int | None) -> list[Scored]:
    """Rows of `low` ≤ percent ≤ `high`, best first, at most `top`."""
    if not 0 <= low <= high <= 100:
        raise Invalid("--min and --max are percentages with 0 ≤ min ≤ max ≤ 100.")
    if top is not None and top < 1:
        raise Invalid("--top is a number of at least 1.")
    kept = [row for row in rows if low <= 100 * row.score <= high]
    return sorted(kept, key=lambda row: (-row.score, row.path))[:top]


def write_rows(path: Path, rows: list[Scored], model: Model) -> None:
    """Write path, aesthetic_score (0–1) and percent as `.parquet`, `.csv` or `.jsonl`, all or
    nothing. The model's name is in the metadata (Parquet) or in every row (the others)."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(
            {
                "path": pa.array([row.path for row in rows], pa.string()),
                "aesthetic_score": pa.array([row.score for row in rows], pa.float32()),
                "percent": pa.array([row.percent for row in rows], pa.float32()),
            },
            metadata={"model": model.name, "model_sha256": model.checkpoint.sha256},
        )
        write_atomic(path, lambda handle: pq.write_table(table, handle))
    elif suffix == ".csv":
        write_atomic(path, lambda handle: handle.write(_csv(rows, model).encode()))
    elif suffix == ".jsonl":
        lines = "".join(json.dumps(as_dict(row) | {"model": model.name}) + "\n" for row in rows)
        write_atomic(path, lines.encode())
    else:
        raise Invalid(f"{path.name} has no known ending.", "Use .parquet, .csv or .jsonl.")


def as_dict(row: Scored) -> dict[str, Any]:
    return {"path": row.path, "aesthetic_score": row.score, "percent": row.percent}


def _csv(rows: list[Scored], model: Model) -> str:
    import io

    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "aesthetic_score", "percent", "model"])
    for row in rows:
        writer.writerow([inert(row.path), f"{row.score:.6f}", row.percent, inert(model.name)])
    return text.getvalue()


def inert(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return "'" + cell if re.match(r"[=+\-@\t\r]", cell) else cell


def copy_rows(rows: list[Scored], source: Path, into: Path, *, keep: bool) -> int:
    """Copy the pictures of `rows` into a folder, keeping the folder structure or not. A name that
    is taken gets a number; nothing is overwritten. Returns how many were copied."""
    base = source if source.is_dir() else source.parent
    if into.resolve() == base.resolve() or base.resolve() in into.resolve().parents:
        raise Invalid("The folder to copy into lies inside the source.", "Choose another one.")
    into.mkdir(parents=True, exist_ok=True)
    copied = 0
    for row in rows:
        origin = base / row.path
        target = into / (row.path if keep else origin.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while target.exists():
            target = target.with_name(f"{origin.stem}-{number}{origin.suffix}")
            number += 1
        shutil.copy2(origin, target)
        copied += 1
    return copied
