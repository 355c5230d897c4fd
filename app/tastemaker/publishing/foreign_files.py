"""Files of heads made elsewhere, read and checked byte by byte: a score or class file of the
original, or a LAION head, with the sidecar beside it. Nothing is stored here."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tastemaker.encoding.encoder_names import canonical
from tastemaker.errors import CheckpointError, NotFound, TastemakerError
from tastemaker.files import is_file
from tastemaker.files.texts import read_text
from tastemaker.learning import laion
from tastemaker.learning.checkpoints import (
    check_described,
    class_names,
    load_checkpoint,
    tensor_names,
)
from tastemaker.learning.city96 import Tensors

MOST_SIDECAR_BYTES = 2**20


@dataclass(frozen=True)
class ForeignHead:
    """A head from a file: the 16 tensors, or the line of a LAION head. `encoder` and `fingerprint`
    are what the file or its sidecar names; `labels` names the classes (empty: one score)."""

    name: str
    head: Tensors | laion.LinearHead
    features: int
    outputs: int
    labels: tuple[str, ...]
    encoder: str | None
    fingerprint: str | None
    normalised: bool
    sha256: str
    sidecar: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Literal["score", "class"]:
        return "score" if self.outputs == 1 else "class"

    @property
    def layout(self) -> Literal["city96", "laion"]:
        return "laion" if isinstance(self.head, laion.LinearHead) else "city96"

    def tensors(self) -> Tensors:
        """The head as the 16 tensors; a line is within 1e-5 of its clipped self there."""
        if not isinstance(self.head, laion.LinearHead):
            return self.head
        return laion.head_of(self.head)


def read_foreign_head(file: Path, name: str = "", config: Path | None = None) -> ForeignHead:
    """The head in `file` (called `name`), with its sidecar `config` if there is one. Raises
    `NotFound`, `CheckpointError`."""
    name = name or file.name
    if not is_file(file):
        raise NotFound(f"There is no file {file}.", "Name a .safetensors file.")
    try:
        sidecar = _read_sidecar(config) if config is not None else {}
        foreign = laion.is_laion(tensor_names(file))
        head = (_read_laion if foreign else _read_city96)(file, name, sidecar)
        beside = config.name if config and config.suffix.lower() == ".json" else "The sidecar"
        check_described(sidecar, beside, name, head.sha256)
        return head
    except CheckpointError as error:
        way_out = error.hint or "Get the file anew, or choose another one."
        raise CheckpointError(f"{name}: {error.message}", way_out) from error


def _read_city96(file: Path, name: str, sidecar: dict[str, Any]) -> ForeignHead:
    read = load_checkpoint(file)
    if read.metadata.get("read_out") == "sigmoid" and read.outputs > 1:
        raise CheckpointError(
            f"It holds {read.outputs} tags in one file, which do not exclude each other.",
            "Import the file of one tag: the export of that version holds one for each.",
        )
    encoder, fingerprint = _named_encoder(sidecar, read.metadata)
    return ForeignHead(
        name=name, head=read.tensors, features=read.features, outputs=read.outputs,
        labels=class_names(sidecar, read.features, read.outputs), encoder=encoder,
        fingerprint=fingerprint, normalised=read.metadata.get("embedding") == "L2-normalised",
        sha256=read.sha256, sidecar=sidecar,
    )  # fmt: skip


def _read_laion(file: Path, name: str, sidecar: dict[str, Any]) -> ForeignHead:
    line, metadata, sha256 = laion.read_line(file)
    encoder, fingerprint = _named_encoder(sidecar, metadata)
    return ForeignHead(
        name=name, head=line, features=laion.FEATURES, outputs=1, labels=(),
        encoder=encoder or laion.ENCODER, fingerprint=fingerprint, normalised=True, sha256=sha256,
        sidecar=sidecar,
    )  # fmt: skip


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        sidecar = json.loads(read_text(path, MOST_SIDECAR_BYTES))
    except (ValueError, RecursionError):
        raise CheckpointError("The sidecar is not a JSON file.") from None
    except TastemakerError as error:
        raise CheckpointError(f"The sidecar cannot be used: {error.message}") from None
    if not isinstance(sidecar, dict):
        raise CheckpointError("The sidecar is not a JSON object.")
    return sidecar


def _named_encoder(
    sidecar: dict[str, Any], metadata: dict[str, str]
) -> tuple[str | None, str | None]:
    """(name, fingerprint) of the encoder by the file's metadata, else by its sidecar."""
    if metadata.get("encoder"):
        return canonical(metadata["encoder"]), metadata.get("encoder_fingerprint")
    named = sidecar.get("encoder")
    if isinstance(named, dict):
        fingerprint = named.get("fingerprint")
        fingerprint = fingerprint if isinstance(fingerprint, str) else None
        named = named.get("name")
    else:
        fingerprint = None
    return (canonical(named), fingerprint) if isinstance(named, str) and named else (None, None)
