"""The head: 16 tensors that turn an embedding into a score, and the algebra that keeps them exact.

Every published head, linear or not, is one file in the layout of the original *CityClassifiers*
predictor, so that its loader reads ours:

    u = up.0(x)                                    features -> 1024
    r = ReLU(long(u) + u)                          long: Linear, LeakyReLU(0.1), twice, Linear
    z = down.5(down.4(LeakyReLU(down.1(down.0(r)))))      1024 -> 128 -> 64 -> 32 -> outputs

A score is (tanh z + 1)/2, which is the same as sigmoid(2z); classes are softmax(z). Between down.0
and down.1, and between down.4 and down.5, there is no activation: at inference each pair is one
matrix. That, and the functions below, rest on one remark: what is linear can be folded into the
neighbouring layer without changing the function.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.numpy import save as safetensors_bytes
from torch import Tensor, nn

from app.errors import CheckpointError, Invalid

HIDDEN = 1024
TRUNK_SLOPE = 0.1  # LeakyReLU inside `long`
NECK_SLOPE = 0.01  # LeakyReLU between down.1 and down.4

MAX_FILE_BYTES = 256 * 2**20
MAX_HEADER_BYTES = 2**20

Array = NDArray[np.float32]
Tensors = dict[str, Array]


def layout(features: int, outputs: int = 1) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the 16 tensors, in the order of the forward pass."""
    weights = {
        "up.0": (HIDDEN, features),
        "up.1.long.0": (HIDDEN, HIDDEN),
        "up.1.long.2": (HIDDEN, HIDDEN),
        "up.1.long.4": (HIDDEN, HIDDEN),
        "down.0": (128, HIDDEN),
        "down.1": (64, 128),
        "down.4": (32, 64),
        "down.5": (outputs, 32),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (rows, columns) in weights.items():
        shapes[f"{name}.weight"] = (rows, columns)
        shapes[f"{name}.bias"] = (rows,)
    return shapes


class Residual(nn.Module):
    """ReLU(long(u) + u)."""

    def __init__(self) -> None:
        super().__init__()
        self.long = nn.Sequential(
            nn.Linear(HIDDEN, HIDDEN),
            nn.LeakyReLU(TRUNK_SLOPE),
            nn.Linear(HIDDEN, HIDDEN),
            nn.LeakyReLU(TRUNK_SLOPE),
            nn.Linear(HIDDEN, HIDDEN),
        )

    def forward(self, u: Tensor) -> Tensor:
        return F.relu(self.long(u) + u)


class City96(nn.Module):
    """The trainable form of the layout; its state dict has exactly the 16 names."""

    def __init__(self, features: int, outputs: int = 1) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Linear(features, HIDDEN), Residual())
        self.down = nn.Sequential(
            nn.Linear(HIDDEN, 128),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.LeakyReLU(NECK_SLOPE),
            nn.Linear(64, 32),
            nn.Linear(32, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) -> z (N, outputs), before the tanh or the softmax."""
        return self.down(self.up(x))


def tensors_of(module: City96) -> Tensors:
    """A copy of the module's weights as float32 arrays."""
    return {
        name: np.array(value.detach().float().cpu().numpy())
        for name, value in module.state_dict().items()
    }


def module_of(tensors: Mapping[str, Array]) -> City96:
    """The torch module that holds these tensors (in eval mode)."""
    features, outputs = check_layout(tensors)
    module = City96(features, outputs)
    module.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in tensors.items()})
    return module.eval()


# ---------------------------------------------------------------- folding, exactly


def fold_standardisation(tensors: Mapping[str, Array], mean: Array, scale: Array) -> Tensors:
    """The head on raw x that equals `tensors` on (x − mean) / scale.

    W(x − μ)/σ + b = (W/σ)x + (b − (W/σ)μ), so only `up.0` changes. mean, scale: (features,).
    """
    if not np.all(np.asarray(scale) > 0):
        raise Invalid("The scale of an input standardisation must be positive.")
    weight = tensors["up.0.weight"].astype(np.float64) / np.asarray(scale, np.float64)
    bias = tensors["up.0.bias"] - weight @ np.asarray(mean, np.float64)
    return {
        **tensors,
        "up.0.weight": weight.astype(np.float32),
        "up.0.bias": bias.astype(np.float32),
    }


def fold_platt(tensors: Mapping[str, Array], a: float, c: float) -> Tensors:
    """The head whose logit is a·ℓ + c where that of `tensors` is ℓ = 2z: z' = a·z + c/2."""
    return {
        **tensors,
        "down.5.weight": np.asarray(a * tensors["down.5.weight"], np.float32),
        "down.5.bias": np.asarray(a * tensors["down.5.bias"] + c / 2, np.float32),
    }


def linear_head(
    weights: Array,
    bias: float,
    mean: Array,
    scale: Array,
    *,
    link: Literal["logit", "identity"] = "logit",
) -> Tensors:
    """A linear head s = w·(x − μ)/σ + b in the city96 layout.

    `link='logit'`: the score is sigmoid(s); exact up to float32 rounding. `link='identity'`: the
    score is s clipped to [0, 1]; within 1e-5. All vectors have shape (features,).
    """
    if link not in ("logit", "identity"):
        raise Invalid(f"A linear head has the link 'logit' or 'identity', not {link!r}.")
    w = np.asarray(weights, np.float64) / np.asarray(scale, np.float64)
    b = float(bias) - float(w @ np.asarray(mean, np.float64))
    tensors = {name: np.zeros(shape, np.float32) for name, shape in layout(w.size).items()}

    # `long` is all zero, so the trunk is r = ReLU(up.0(x)): a bank of hinges ReLU(±(s − knot)).
    # Their weighted sum goes through `down.0`, and the pair (t, −t) carries it past the LeakyReLU:
    # LeakyReLU(t) − LeakyReLU(−t) = (1 + 0.01)·t.
    knots, signs, slopes, constant = _logit_hinges() if link == "identity" else _plain_hinges()
    used = len(knots)
    tensors["up.0.weight"][:used] = signs[:, None] * w
    tensors["up.0.bias"][:used] = signs * (b - knots)
    tensors["down.0.weight"][0, :used] = slopes
    tensors["down.0.bias"][0] = constant
    tensors["down.1.weight"][:2, 0] = 1, -1
    tensors["down.4.weight"][0, :2] = 1 / (1 + NECK_SLOPE), -1 / (1 + NECK_SLOPE)
    tensors["down.5.weight"][0, 0] = 0.5  # z is half the logit
    return tensors


def _plain_hinges() -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """s = ReLU(s) − ReLU(−s)."""
    return np.zeros(2), np.array([1.0, -1.0]), np.array([1.0, -1.0]), 0.0


def _logit_hinges(intervals: int = 512) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """logit(clip(s, 0, 1)) as hinges that open outwards from s = 1/2, where the logit is 0.

    A chord of the logit over a width h around s is off by about h²/8 · |1 − 2s| / (s(1 − s)) once
    it is back on the score scale, so knots at sin²θ with even steps of θ spread the error evenly:
    (π/2 ÷ 512)² ÷ 2 = 5e-6. Hinges that open outwards add up slopes of one sign; all opening to
    the right would subtract huge slopes from one another and lose the middle to rounding.
    """
    steps = np.linspace(np.pi / 4, np.pi / 2, intervals // 2 + 1)
    right = np.sin(steps) ** 2
    right[-1] = 1 - 1e-6  # the logit at 1 is infinite; the score there is 1 within 1e-6
    values = np.log(right) - np.log1p(-right)
    chords = np.append(np.diff(values) / np.diff(right), 0.0)  # flat beyond the last knot
    slopes = np.diff(chords, prepend=0.0)
    knots = np.concatenate([right, 1 - right])
    signs = np.repeat([1.0, -1.0], len(right))
    return knots, signs, signs * np.tile(slopes, 2), 0.0


# ---------------------------------------------------------------- files


@dataclass(frozen=True)
class Checkpoint:
    """A head read from a file: checked tensors (float32), metadata, sizes, hash of the bytes."""

    tensors: Tensors
    metadata: dict[str, str]
    features: int
    outputs: int
    sha256: str
    hidden: int = HIDDEN


def save_checkpoint(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> str:
    """Write the 16 tensors as float32 safetensors to `path`; returns the SHA-256 of the bytes.

    The caller owns durability: it writes to a temporary name, verifies by `load_checkpoint`,
    syncs, and renames.
    """
    check_layout(tensors)
    ordered = {
        name: np.ascontiguousarray(tensors[name], np.float32)
        for name in layout(tensors["up.0.weight"].shape[1], tensors["down.5.weight"].shape[0])
    }
    data = safetensors_bytes(ordered, metadata=dict(metadata))
    Path(path).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


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


def load_checkpoint(path: Path, *, features: int | None = None) -> Checkpoint:
    """Read a head from a file that nobody vouches for.

    Accepts exactly the 16 tensors in float32, float16 or bfloat16; `features`, where given, is the
    width of the embeddings it must take. Raises CheckpointError with one sentence otherwise.
    Nothing is unpickled, and nothing larger than 256 MB is read.
    """
    data = _read_capped(Path(path))
    entries, body = _parse_header(data)
    metadata = _checked_metadata(entries.pop("__metadata__", None))
    _check_names(entries)
    tensors = _read_tensors(entries, body)
    width, outputs = check_layout(tensors)
    if features is not None and width != features:
        raise CheckpointError(
            f"This head takes embeddings of {width} numbers, but the encoder gives {features}.",
            "Use it with the encoder it was trained on.",
        )
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            raise CheckpointError(f"The tensor {name} holds values that are not finite numbers.")
    return Checkpoint(tensors, metadata, width, outputs, hashlib.sha256(data).hexdigest())


def check_layout(tensors: Mapping[str, Array]) -> tuple[int, int]:
    """(features, outputs) of 16 well-shaped tensors; CheckpointError otherwise."""
    _check_names(tensors)
    first, last = tensors["up.0.weight"], tensors["down.5.weight"]
    if first.ndim != 2 or last.ndim != 2 or not first.shape[1] or not last.shape[0]:
        raise CheckpointError("The first and the last weight of a head must be non-empty matrices.")
    features, outputs = first.shape[1], last.shape[0]
    for name, shape in layout(features, outputs).items():
        if tensors[name].shape != shape:
            found, wanted = _times(tensors[name].shape), _times(shape)
            raise CheckpointError(f"The tensor {name} is {found}; a head needs {wanted} there.")
    return features, outputs


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a single number"


def _check_names(names: Mapping[str, Any]) -> None:
    wanted = layout(1).keys()
    if missing := [name for name in wanted if name not in names]:
        raise CheckpointError(
            f"The file lacks {len(missing)} of the 16 tensors of a head, {missing[0]} first."
        )
    if extra := sorted(set(names) - wanted):
        raise CheckpointError(f"The file holds a tensor that no head has: {extra[0][:80]!r}.")


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
            "Only safetensors files are read, because others can run code.",
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
            "Only safetensors files are read, because others can run code.",
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


# ---------------------------------------------------------------- scoring


class Scorer:
    """Scores embeddings with one head: (N, features) float16 or float32 -> (N,) scores in [0, 1].

    With several outputs it gives (N, outputs) class probabilities. Memory stays bounded whatever N
    is (a memory-mapped array is read chunk by chunk). `precision='fast'` computes the trunk in
    bfloat16 and the collapsed `down` in float32, about 2e-3 off; an all-bfloat16 head would also
    tie most scores of a large set.
    """

    CHUNK = 1024  # large enough for the matrix kernels, small enough to stay in cache

    def __init__(
        self,
        head: Checkpoint | Mapping[str, Array],
        precision: Literal["fp32", "fast"] = "fp32",
    ) -> None:
        if precision not in ("fp32", "fast"):
            raise Invalid(f"The precision of scoring is 'fp32' or 'fast', not {precision!r}.")
        tensors = head.tensors if isinstance(head, Checkpoint) else head
        self.features, self.outputs = check_layout(tensors)

        held = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
        narrow, narrow_bias = _collapse(held, "down.0", "down.1")
        last, last_bias = _collapse(held, "down.4", "down.5")
        first, first_bias = held["up.0.weight"], held["up.0.bias"]
        # A linear head has a silent `long`: the trunk is then ReLU(up.0(x)), of which `down` reads
        # a few rows. Dropping the others is exact and spares nearly all of the work.
        self._linear = not any(held[f"up.1.long.4.{part}"].any() for part in ("weight", "bias"))
        if self._linear:
            read = narrow.ne(0).any(dim=0)
            first, first_bias, narrow = first[read], first_bias[read], narrow[:, read].contiguous()

        self._trunk_dtype = (
            torch.bfloat16 if precision == "fast" and not self._linear else torch.float32
        )
        self._first = [t.to(self._trunk_dtype) for t in (first, first_bias)]
        self._long = [
            [held[f"up.1.long.{i}.{part}"].to(self._trunk_dtype) for part in ("weight", "bias")]
            for i in (0, 2, 4)
        ]
        self._down = [t.float() for t in (narrow, narrow_bias, last, last_bias)]

    def __call__(self, x: NDArray[Any]) -> Array:
        """Scores of the rows of x. A row that is not finite scores NaN."""
        if x.ndim != 2 or x.shape[1] != self.features:
            raise Invalid(
                f"This head scores embeddings of {self.features} numbers, "
                f"but these have the shape {_times(x.shape)}.",
                "Use the encoder that the head was trained on.",
            )
        scores = np.empty((len(x), self.outputs), np.float32)
        with torch.inference_mode():
            for start in range(0, len(x), self.CHUNK):
                chunk = torch.from_numpy(np.array(x[start : start + self.CHUNK]))
                scores[start : start + self.CHUNK] = self._activate(self._z(chunk)).numpy()
        return scores[:, 0] if self.outputs == 1 else scores

    def _z(self, x: Tensor) -> Tensor:
        u = F.linear(x.to(self._trunk_dtype), *self._first)
        if self._linear:
            r = F.relu_(u)
        else:
            first, second, third = self._long
            h = F.leaky_relu_(F.linear(u, *first), TRUNK_SLOPE)
            h = F.leaky_relu_(F.linear(h, *second), TRUNK_SLOPE)
            r = F.relu_(F.linear(h, *third).add_(u))
        narrow, narrow_bias, last, last_bias = self._down
        neck = F.leaky_relu_(F.linear(r.float(), narrow, narrow_bias), NECK_SLOPE)
        return F.linear(neck, last, last_bias)

    def _activate(self, z: Tensor) -> Tensor:
        return torch.sigmoid(2 * z) if self.outputs == 1 else torch.softmax(z, dim=1)


def _collapse(held: Mapping[str, Tensor], inner: str, outer: str) -> tuple[Tensor, Tensor]:
    """outer(inner(x)) as one weight and one bias, in float64."""
    w1, b1, w2, b2 = (
        held[f"{layer}.{part}"].double() for layer in (inner, outer) for part in ("weight", "bias")
    )
    weight, bias = w2 @ w1, w2 @ b1 + b2
    return weight, bias
