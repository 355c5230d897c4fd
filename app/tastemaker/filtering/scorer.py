"""Score pictures or embeddings from outside the library with one head.

    rows = score_source(folder, read_model(file), settings)
    write(out, within(rows, 60, 100), model.about)

Whatever the size of the source, memory holds one table of rows, and they keep the source's order.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch

from tastemaker.config import Settings
from tastemaker.encoding.embedding_files import EMBEDDING_SUFFIXES, are_normalised, open_embeddings
from tastemaker.encoding.encode_files import embed_files
from tastemaker.encoding.encoders import Encoder, load, parse
from tastemaker.errors import BadImage, CheckpointError, Conflict, Invalid, NotFound
from tastemaker.files import is_text
from tastemaker.filtering.score_tables import table
from tastemaker.learning.checkpoints import Checkpoint, load_checkpoint, sidecar_path
from tastemaker.learning.heads import Head
from tastemaker.pictures.pictures import IMAGE_SUFFIXES, Limits

Precision = Literal["fp32", "fast"]
OnError = Callable[[str, str], None]  # path, reason
Progress = Callable[[int, int], None]  # rows done, rows in all

PICTURES_AT_ONCE = 32
LOOKED_AT = 64  # rows of a block that show whether it is L2-normalised


@dataclass(frozen=True)
class Model:
    """A head to score with: its file, its name, and the encoder it needs (None: unknown)."""

    path: Path
    name: str
    encoder: str | None
    fingerprint: str | None
    checkpoint: Checkpoint

    @property
    def normalised(self) -> bool | None:
        """Whether it was trained on L2-normalised embeddings. None: its file does not say."""
        said = self.checkpoint.metadata.get("embedding")
        return None if said is None else said == "L2-normalised"

    @property
    def about(self) -> dict[str, str]:
        """What a file of scores says of the model that gave them."""
        return {"model": self.name, "model_sha256": self.checkpoint.sha256}


def read_model(path: Path) -> Model:
    """A head from a file that nobody vouches for. The encoder it needs is taken from the file's
    metadata, else from its sidecar. Raises `CheckpointError`, `NotFound`."""
    if not path.is_file():
        raise NotFound(f"There is no file {path}.", "Name a .safetensors file or PROJECT@v1.0.")
    try:
        checkpoint = load_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error.message}", error.hint) from error
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
    """Score a folder (all its folders too), one picture, or a file of embeddings.

    `on_error(path, reason)` hears of what cannot be used. Raises before the first row when the
    source or the encoder cannot be used at all, on the way where L2-normalised embeddings turn up
    that the head cannot read, and after the last when nothing was of use.
    """
    if settings.torch_threads:
        torch.set_num_threads(settings.torch_threads)
    scorer = Head(model.checkpoint, precision)
    if source.suffix.lower() in EMBEDDING_SUFFIXES and source.is_file():
        return _score_embeddings(source, model, scorer, on_error, progress)
    base, paths = _pictures_in(source, on_error)
    network = _encoder_for(model, encoder)
    limits = Limits.of(settings)
    return _score_pictures(base, paths, network, limits, model, scorer, on_error, progress)


def _as_trained(model: Model, x: np.ndarray) -> np.ndarray:
    """The vectors (n, D) as the head saw such in training."""
    if not model.normalised:
        return x
    x = x.astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12)


# --- embeddings --------------------------------------------------------------------------------


def _score_embeddings(
    source: Path, model: Model, scorer: Head, on_error: OnError, progress: Progress
) -> Iterator[pa.Table]:
    embeddings = open_embeddings(source)
    if embeddings.dim != scorer.features:
        raise Invalid(
            f"{source.name} holds vectors of {embeddings.dim} values; this head reads "
            f"{scorer.features}.",
            "Embed them with the encoder the head was trained on.",
        )

    of_nothing = scorer(np.zeros((1, embeddings.dim), np.float32))[0]

    def tables() -> Iterator[pa.Table]:
        done = scored = 0
        for paths, x in embeddings.blocks:
            if model.normalised is False and are_normalised(x[:: max(1, len(x) // LOOKED_AT)]):
                raise Invalid(
                    f"{source.name} holds L2-normalised embeddings, and {model.name} was trained "
                    "on raw ones: every score would be wrong.",
                    "Embed the pictures again without normalising, or train on normalised ones.",
                )
            rows = table(paths, scorer(_as_trained(model, x)))
            scores = rows["aesthetic_score"].to_numpy()
            empty = np.abs(scores - of_nothing) < 0.001  # only these are worth a look
            empty[empty] = ~x[empty].any(axis=1)
            for strange, reason in (
                (np.isnan(scores), "The embedding holds values that are not finite numbers."),
                (empty, "The embedding is all zeros: it was never written."),
            ):
                if strange.any():
                    for path in paths.filter(pa.array(strange)).to_pylist():
                        on_error(path, reason)
            if (usable := ~(np.isnan(scores) | empty)).sum() < len(x):
                rows = rows.filter(pa.array(usable))
            done, scored = done + len(x), scored + len(rows)
            yield rows
            progress(done, embeddings.rows)
        if not scored:
            raise Invalid("None of the embeddings could be scored.")

    return tables()


# --- pictures ----------------------------------------------------------------------------------


def _pictures_in(source: Path, on_error: OnError) -> tuple[Path, list[Path]]:
    """The folder that paths are told from, and the pictures in it, sorted."""
    if not source.exists():
        raise NotFound(f"There is no file or folder {source}.", "Check the path.")
    if source.is_dir():
        base = source
        found = [Path(folder, name) for folder, _, names in os.walk(source) for name in names]
    else:
        base, found = source.parent, [source]
    pictures = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES]
    if not pictures:
        wrong = "is not a picture" if source.is_file() else "holds no picture"
        raise Invalid(f"{source} {wrong}.", "Pictures are JPEG, PNG, WebP or GIF files.")
    named = []
    for path in pictures:
        if is_text(str(path)):
            named.append(path)
        else:
            shown = os.fsencode(path.relative_to(base)).decode("utf-8", "replace")
            on_error(shown, "Its name is not in UTF-8; rename it.")
    return base, sorted(named)


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


def _score_pictures(
    base: Path,
    paths: list[Path],
    encoder: Encoder,
    limits: Limits,
    model: Model,
    scorer: Head,
    on_error: OnError,
    progress: Progress,
) -> Iterator[pa.Table]:
    def told(index: int) -> str:
        return str(paths[index].relative_to(base))

    def set_aside(index: int, error: BadImage) -> None:
        on_error(told(index), str(error))

    scored = 0
    for vectors in _batches(_in_order(encoder, paths, limits, set_aside)):
        scored += len(vectors)
        yield table(
            pa.array([told(index) for index, _ in vectors], pa.string()),
            scorer(_as_trained(model, np.stack([vector for _, vector in vectors]))),
        )
        progress(vectors[-1][0] + 1, len(paths))
    if not scored:
        raise Invalid("None of the pictures could be scored.")


Vector = tuple[int, np.ndarray]  # index into the paths, (D,) float32


def _in_order(
    encoder: Encoder,
    paths: list[Path],
    limits: Limits,
    on_error: Callable[[int, BadImage], None],
) -> Iterator[Vector]:
    """The vectors in the order of `paths`; what is done too early waits for its turn."""
    finished: dict[int, np.ndarray | None] = {}
    turn = 0

    def set_aside(index: int, error: BadImage) -> None:
        finished[index] = None
        on_error(index, error)

    def due() -> Iterator[Vector]:
        nonlocal turn
        while turn in finished:
            vector = finished.pop(turn)
            if vector is not None:
                yield turn, vector
            turn += 1

    for index, vector in embed_files(encoder, paths, limits=limits, on_error=set_aside):
        finished[index] = vector
        yield from due()
    yield from due()  # the last ones may have waited for one that was set aside


def _batches(vectors: Iterable[Vector]) -> Iterator[list[Vector]]:
    """As many at a time as are scored at once: a large head is slow with one."""
    batch: list[Vector] = []
    for vector in vectors:
        batch.append(vector)
        if len(batch) == PICTURES_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


# --- copying what passes -----------------------------------------------------------------------


def check_target(source: Path, into: Path) -> None:
    """`Invalid` where the copies would become part of the source."""
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
