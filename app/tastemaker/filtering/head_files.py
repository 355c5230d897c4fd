"""The file of a head that nobody vouches for, and the sidecar beside it, if there is one."""

import json
import math
from pathlib import Path
from typing import Any

from tastemaker.errors import CheckpointError, NotFound, TastemakerError
from tastemaker.files import is_file
from tastemaker.files.texts import read_text
from tastemaker.filtering.class_columns import ClassReading
from tastemaker.learning import laion
from tastemaker.learning.checkpoints import (
    Checkpoint,
    class_names,
    load_checkpoint,
    tensor_names,
)

THRESHOLD = 0.5  # where the file names none
MOST_SIDECAR_BYTES = 2**20


def read_head(path: Path) -> Checkpoint:
    if not is_file(path):
        raise NotFound(f"There is no file {path}.", "Name a .safetensors file.")
    try:
        if laion.is_laion(tensor_names(path)):
            return _read_laion(path)
        checkpoint = load_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error.message}", error.hint) from error
    return checkpoint


def classes_of(checkpoint: Checkpoint, sidecar: dict[str, Any], name: str) -> ClassReading | None:
    """How the head in the file of that name tells classes apart; None of one that scores."""
    several = checkpoint.metadata.get("read_out") == "sigmoid"
    try:
        names = class_names(sidecar, checkpoint.features, checkpoint.outputs, several=several)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error.message}", error.hint) from error
    return ClassReading(names, several) if names else None


def _read_laion(path: Path) -> Checkpoint:
    """A LAION head in the city96 layout; the layout itself says what it was trained on."""
    line, metadata, sha256 = laion.read_line(path)
    known = {"encoder": laion.ENCODER, "embedding": "L2-normalised"} | metadata
    return Checkpoint(laion.head_of(line), known, laion.FEATURES, 1, sha256)


def read_sidecar(path: Path) -> tuple[dict[str, Any], str]:
    """What the sidecar says, and why it cannot be read: nothing of either where there is none, and
    nothing said where it is of another make."""
    if not is_file(path):
        return {}, ""
    try:
        content = json.loads(read_text(path, MOST_SIDECAR_BYTES))
    except TastemakerError as error:
        return {}, error.message
    except (ValueError, RecursionError):
        return {}, f"{path.name} is not JSON."
    return (content, "") if isinstance(content, dict) else ({}, f"{path.name} is no JSON object.")


def sidecar_encoder(beside: dict[str, Any]) -> tuple[str | None, str | None]:
    """(name, fingerprint) of the encoder, where the sidecar has both."""
    encoder = beside.get("encoder")
    if not isinstance(encoder, dict):
        return None, None
    name, fingerprint = text_of(encoder.get("name")), text_of(encoder.get("fingerprint"))
    return (name, fingerprint) if name and fingerprint else (None, None)


def text_of(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def threshold_of(value: object) -> float:
    """A number in 0-1, from the metadata (a text) or from the sidecar; else the usual one."""
    try:
        number = float(value)  # type: ignore[arg-type]  # anything may stand in a foreign file
    except (TypeError, ValueError):
        return THRESHOLD
    return number if 0 <= number <= 1 else THRESHOLD


def percentiles_of(value: object) -> tuple[float, ...]:
    """101 rising scores in 0-1, or none."""
    scores = value.get("scores") if isinstance(value, dict) else None
    if not isinstance(scores, list) or len(scores) != 101:
        return ()
    if not all(isinstance(score, int | float) and math.isfinite(score) for score in scores):
        return ()
    rising = all(a <= b for a, b in zip([0.0, *scores], [*scores, 1.0], strict=True))
    return tuple(float(score) for score in scores) if rising else ()
