"""Checkpoints: the file format of a head, which is that of the original *CityClassifiers*.

A file is 16 float32 tensors in safetensors, with a `.config.json` sidecar. What is read may come
from anybody, so it is checked byte by byte before a number of it is used. There is no torch here:
any process may look into a file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as safetensors_bytes

from tastemaker.errors import CheckpointError, Invalid
from tastemaker.files import is_text
from tastemaker.files.json_text import json_text
from tastemaker.learning.city96 import (
    HIDDEN,
    Array,
    Tensors,
    check_layout,
    check_names,
    layout,
)

NOT_UNPICKLED = (
    "Only safetensors files are read, because others can run code. Convert a .pth, as LAION's, "
    "with safetensors.torch.save_file."
)
MAX_FILE_BYTES = 256 * 2**20
MAX_HEADER_BYTES = 2**20
SHA256 = re.compile("[0-9a-fA-F]{64}")

# ---------------------------------------------------------------- writing


def save_checkpoint(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """Write the 16 tensors as float32 safetensors to `path`; returns the SHA-256 of the bytes.

    The caller owns durability: it writes to a temporary name, verifies by `load_checkpoint`,
    syncs, and renames.
    """
    data = checkpoint_bytes(tensors, metadata)
    Path(path).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def checkpoint_bytes(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """The same as bytes: equal for equal tensors and metadata."""
    check_layout(tensors)
    ordered = {
        name: np.ascontiguousarray(tensors[name], np.float32)
        for name in layout(tensors["up.0.weight"].shape[1], tensors["down.5.weight"].shape[0])
    }
    return _in_one_order(safetensors_bytes(ordered, metadata=dict(metadata)))


def _in_one_order(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted by name. The library writes it in another order
    every time, and the same head would have another hash."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if "__metadata__" in header:
        header = {"__metadata__": dict(sorted(header.pop("__metadata__").items()))} | header
    text = json_text(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def sidecar(
    name: str,
    rev: str,
    *,
    features: int,
    labels: list[str] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """The `.config.json` beside a checkpoint. `labels` names the classes; None means one score.

    The original's loader splats `model_params` into a constructor, so it holds three keys and no
    more; anything else goes to the top level, where it is ignored.
    """
    config: dict[str, Any] = {
        "name": name,
        "rev": rev,
        "arch": "class" if labels else "score",
        "labels": {str(i): label for i, label in enumerate(labels)} if labels else None,
        "model_params": {
            "features": features,
            "hidden": HIDDEN,
            "outputs": len(labels) if labels else 1,
        },
    }
    if taken := sorted(config.keys() & extra.keys()):
        raise Invalid(f"The sidecar key {taken[0]!r} is part of the format and cannot be replaced.")
    return {**config, **extra}


def sidecar_path(checkpoint: Path) -> Path:
    """`Name-v1.8.safetensors` -> `Name-v1.8.config.json`."""
    return checkpoint.with_name(checkpoint.name.removesuffix(".safetensors") + ".config.json")


def described_sha256(sidecar: Any) -> str | None:
    """The hash of the file that a sidecar says it describes; None where it does not say, as the
    original's do not."""
    named = sidecar.get("sha256") if isinstance(sidecar, dict) else None
    return named.lower() if isinstance(named, str) and SHA256.fullmatch(named) else None


def check_described(sidecar: Any, beside: str, name: str, sha256: str) -> None:
    """Raise `CheckpointError` where the sidecar `beside` describes another file than `name`: what
    it says of its scores and its encoder would be believed of the wrong head."""
    if described_sha256(sidecar) not in (None, sha256):
        raise CheckpointError(
            f"{beside} describes another file than {name}, by its hash.",
            "Put the right sidecar there, or remove it. If it is the right one, "
            f"{name} was changed or damaged: get it anew.",
        )


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Checkpoint:
    """A head read from a file: checked tensors (float32), metadata, sizes, hash of the bytes."""

    tensors: Tensors
    metadata: dict[str, str]
    features: int
    outputs: int
    sha256: str


def class_names(
    sidecar: dict[str, Any], features: int, outputs: int, *, several: bool = False
) -> tuple[str, ...]:
    """The names of the classes of a head, in their order; their numbers where nobody named them,
    and none of a head that scores. Of tags (`several`), a single output is one too."""
    params = sidecar.get("model_params") or {}
    sizes = {"features": features, "outputs": outputs}
    if not isinstance(params, dict) or any(params.get(k, n) != n for k, n in sizes.items()):
        raise CheckpointError(
            f"The sidecar speaks of another head: this one reads {features} numbers and has "
            f"{outputs} {'output' if outputs == 1 else 'outputs'}.",
            "Take the .config.json that came with the file.",
        )
    labels = sidecar.get("labels")
    if outputs == 1 and not several:
        if labels or sidecar.get("arch") == "class":
            raise CheckpointError("The sidecar names classes, but the head has a single output.")
        return ()
    if labels is None or labels == {}:
        return tuple(str(i) for i in range(outputs))
    wanted = [str(i) for i in range(outputs)]
    if not isinstance(labels, dict) or sorted(labels) != sorted(wanted):
        raise CheckpointError(
            f"The sidecar must name the {outputs} classes “0” to “{outputs - 1}”, each once."
        )
    names = [labels[key] for key in wanted]
    if not all(isinstance(name, str) and name.strip() and is_text(name) for name in names):
        raise CheckpointError("The sidecar holds the name of a class that is no text.")
    return tuple(names)


def load_checkpoint(path: Path, *, features: int | None = None) -> Checkpoint:
    """Read a head from a file that nobody vouches for.

    Accepts exactly the 16 tensors in float32, float16 or bfloat16; `features`, where given, is the
    width of the embeddings it must take. Raises CheckpointError with one sentence otherwise.
    Nothing is unpickled, and nothing larger than 256 MB is read.
    """
    read = read_safetensors(Path(path), check_names)
    tensors = read.tensors
    width, outputs = check_layout(tensors)
    if features is not None and width != features:
        raise CheckpointError(
            f"This head takes embeddings of {width} numbers, but the encoder gives {features}.",
            "Use it with the encoder it was trained on.",
        )
    check_finite(tensors)
    return Checkpoint(tensors, read.metadata, width, outputs, read.sha256)


def check_finite(tensors: Mapping[str, Array]) -> None:
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise CheckpointError(f"The tensor {name} holds values that are not finite numbers.")


@dataclass(frozen=True)
class SafeFile:
    """A safetensors file of any layout: its tensors as float32, metadata, hash of the bytes."""

    tensors: Tensors
    metadata: dict[str, str]
    sha256: str


def read_safetensors(
    path: Path, check_names: Callable[[Mapping[str, Any]], None] = lambda names: None
) -> SafeFile:
    """Read the tensors of a small file that nobody vouches for; `check_names` may refuse them by
    their names before any is read. CheckpointError otherwise, with one sentence."""
    data = _read_capped(path)
    entries, body = _parse_header(data)
    metadata = _checked_metadata(entries.pop("__metadata__", None))
    check_names(entries)
    return SafeFile(_read_tensors(entries, body), metadata, hashlib.sha256(data).hexdigest())


def tensor_names(path: Path) -> set[str]:
    """The names a safetensors file gives its tensors. Raises CheckpointError."""
    return _parse_header(_read_capped(path))[0].keys() - {"__metadata__"}


def _read_capped(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or "unknown reason"
        raise CheckpointError(f"The file {path} cannot be read: {reason}.") from None
    if len(data) > MAX_FILE_BYTES:
        raise CheckpointError(
            f"The file is larger than {MAX_FILE_BYTES // 2**20} MB; a head is about 16 MB."
        )
    if data[:4] == b"PK\x03\x04":
        raise CheckpointError(
            "This is a zip archive (perhaps a PyTorch checkpoint) under a safetensors name.",
            NOT_UNPICKLED,
        )
    # A pickle begins with its protocol opcode; as a safetensors length this would be a header of
    # hundreds of bytes at most, and the JSON brace would follow at byte 8.
    if (
        data[:1] == b"\x80"
        and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
        and (data[8:9] != b"{")
    ):
        raise CheckpointError(
            "This is a Python pickle under a safetensors name.",
            NOT_UNPICKLED,
        )
    return data


def _parse_header(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """The header's entries and the bytes behind it. Sizes are checked before anything is parsed."""
    if len(data) < 10:
        raise CheckpointError("The file is too short to be a safetensors file.")
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"The file claims a header of {length:,} bytes; that of a head is a few thousand.",
            "It is damaged, or not a safetensors file.",
        )
    if 8 + length > len(data):
        raise CheckpointError("The file ends within its header: it is truncated.")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        raise CheckpointError("The header of the file is not valid JSON.") from None
    if not isinstance(header, dict):
        raise CheckpointError("The header of the file is not a JSON object.")
    return header, memoryview(data)[8 + length :]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise CheckpointError("The header of the file names the same thing twice.")
    return dict(pairs)


def _checked_metadata(metadata: Any) -> dict[str, str]:
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError("The metadata of the file is not a table of strings.")
    return metadata


ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def _read_tensors(entries: Mapping[str, Any], body: memoryview) -> Tensors:
    """The tensors as float32, after checking that they tile the body without gap or overlap."""
    spans = [(*_span(name, entry), name) for name, entry in entries.items()]
    position = 0
    for begin, end, name in sorted(spans):
        if begin < position:
            raise CheckpointError(f"The tensor {name} overlaps another one.")
        if begin > position:
            raise CheckpointError(f"There are unused bytes before the tensor {name}.")
        position = end
    if position > len(body):
        raise CheckpointError("The file ends within its tensors: it is truncated.")
    if position < len(body):
        raise CheckpointError("There are unused bytes behind the last tensor.")
    return {
        name: _as_float32(body[begin:end], entries[name]["dtype"]).reshape(entries[name]["shape"])
        for begin, end, name in spans
    }


def _span(name: str, entry: Any) -> tuple[int, int]:
    """Begin and end of one tensor in the body; its size must follow from dtype and shape."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        well_formed = all(type(i) is int and 0 <= i < 2**31 for i in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        well_formed = False
    if not well_formed:
        raise CheckpointError(f"The header entry of the tensor {name} is malformed.")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(
            f"The tensor {name} is stored as {str(dtype)[:20]}.",
            "A head must be float32, float16 or bfloat16.",
        )
    size = ITEM_BYTES[dtype]
    for extent in shape:
        size *= extent
    if end - begin != size:
        raise CheckpointError(f"The tensor {name} does not fill the bytes that it claims.")
    return begin, end


def _as_float32(raw: memoryview, dtype: str) -> Array:
    if dtype == "BF16":  # bfloat16 is the upper half of a float32
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)
