"""The LAION layout: the heads of LAION's aesthetic predictor, which other tools load.

Five linear layers with no activation between them, 768 → 1024 → 128 → 64 → 16 → 1, are one
straight line: points of 0–10 = w·x + b, where x is the embedding of OpenAI's CLIP ViT-L/14 at 224
pixels, divided by its length. So a head can be written in this layout only if it is such a line
(clipped to 0–10) on such embeddings; whether it is, `line_of` finds out by probing the head.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as safetensors_bytes

from tastemaker.errors import CheckpointError, Conflict
from tastemaker.learning.checkpoints import check_finite, read_safetensors
from tastemaker.learning.city96 import Array, Tensors, check_layout, linear_head, times
from tastemaker.learning.lines import Bends, direction, logits_along
from tastemaker.learning.quantiles import logistic

ENCODER = "ViT-L-14-quickgelu/openai"
FEATURES = 768
SHAPES = {
    "layers.0": (1024, FEATURES),
    "layers.2": (128, 1024),
    "layers.4": (64, 128),
    "layers.6": (16, 64),
    "layers.7": (1, 16),
}
NAMES = tuple(f"{layer}.{part}" for layer in SHAPES for part in ("weight", "bias"))

POINTS = 10.0
BEND = 2e-5  # a head written as a clipped line bends less than 1e-5; any sigmoid far more


@dataclass(frozen=True)
class LinearHead:
    """points = weights · x + bias, before clipping to 0–10. weights: (768,) float64."""

    weights: NDArray[np.float64]
    bias: float


# ---------------------------------------------------------------- files


def is_laion(names: Iterable[str]) -> bool:
    """Whether tensors of these names are meant as a LAION head, complete or not."""
    return any(name.startswith("layers.") for name in names)


def read_line(path: Path) -> tuple[LinearHead, dict[str, str], str]:
    """The line of a LAION file, its metadata and its SHA-256. Raises CheckpointError."""
    file = read_safetensors(path, _check_names)
    for layer, size in SHAPES.items():
        for name, wanted in ((f"{layer}.weight", size), (f"{layer}.bias", size[:1])):
            shape = file.tensors[name].shape
            if shape != wanted:
                raise CheckpointError(
                    f"The tensor {name} is {times(shape)}; the LAION layout has {times(wanted)}."
                )
    check_finite(file.tensors)
    return collapse(file.tensors), file.metadata, file.sha256


def _check_names(names: Mapping[str, Any]) -> None:
    if missing := [name for name in NAMES if name not in names]:
        raise CheckpointError(
            f"The file lacks {len(missing)} of the {len(NAMES)} tensors of a LAION head, "
            f"{missing[0]} first."
        )
    if extra := sorted(set(names) - set(NAMES)):
        raise CheckpointError(f"The file holds a tensor no LAION head has: {extra[0][:80]!r}.")


def collapse(tensors: Mapping[str, Array]) -> LinearHead:
    """The five layers as one, in float64."""
    weight, bias = np.eye(FEATURES), np.zeros(FEATURES)
    for layer in SHAPES:
        w = tensors[f"{layer}.weight"].astype(np.float64)
        weight, bias = w @ weight, w @ bias + tensors[f"{layer}.bias"]
    return LinearHead(weight[0], float(bias[0]))


def laion_bytes(line: LinearHead, metadata: Mapping[str, str]) -> bytes:
    """A line as a LAION file. It passes through one neuron of every layer, so that reading the
    file back gives the same float32 numbers."""
    tensors: Tensors = {}
    for layer, shape in SHAPES.items():
        tensors[f"{layer}.weight"] = np.zeros(shape, np.float32)
        tensors[f"{layer}.bias"] = np.zeros(shape[0], np.float32)
        tensors[f"{layer}.weight"][0, 0] = 1
    tensors["layers.0.weight"][0] = line.weights
    tensors["layers.7.bias"][0] = line.bias
    return safetensors_bytes(tensors, metadata=dict(metadata))


def head_of(line: LinearHead) -> Tensors:
    """The line, clipped to 0–10, as the 16 tensors of the city96 layout; within 1e-5."""
    none, one = np.zeros(FEATURES, np.float32), np.ones(FEATURES, np.float32)
    weights = (line.weights / POINTS).astype(np.float32)
    return linear_head(weights, line.bias / POINTS, none, one, link="identity")


# ---------------------------------------------------------------- is this head a line?


def line_of(tensors: Mapping[str, Array]) -> LinearHead:
    """The line that a head of the city96 layout is; Conflict says why it is none.

    A head whose residual branch is silent and whose first layer looks at the input along one
    direction v is a function of v·x alone. That function is evaluated at many points: if it is
    the clipped line through two of them, the head is a line.
    """
    features, outputs = check_layout(tensors)
    if features != FEATURES or outputs != 1:
        raise Conflict(f"It reads {features} numbers and has {outputs} outputs; needed: 768 and 1.")
    try:
        v, along = direction(tensors)
    except Bends as error:
        raise Conflict(f"{error}, and the LAION layout holds straight lines only.") from None

    def scores(t: NDArray[np.float64]) -> NDArray[np.float64]:
        return logistic(logits_along(tensors, along, t))

    low, high = _crossing(scores, 0.25), _crossing(scores, 0.75)
    slope = 0.5 / (high - low)
    probes = np.linspace(low - (high - low), high + (high - low), 801)
    line = np.clip(0.25 + slope * (probes - low), 0, 1)
    if np.abs(scores(probes) - line).max() > BEND:
        raise Conflict(
            "Its score is a sigmoid of the embedding, and the LAION layout holds straight lines "
            "only."
        )
    return LinearHead(POINTS * slope * v, POINTS * (0.25 - slope * low))


def _crossing(scores: Callable[[NDArray[np.float64]], NDArray[np.float64]], level: float) -> float:
    """Where a monotone function of one number passes `level`, by halving."""
    a, b = -1e4, 1e4
    at_a, at_b = scores(np.array([a, b]))
    if (at_a - level) * (at_b - level) >= 0:
        raise Conflict("It says nearly the same of every image.")
    for _ in range(100):
        middle = (a + b) / 2
        if (scores(np.array([middle]))[0] - level) * (at_a - level) > 0:
            a = middle
        else:
            b = middle
    return (a + b) / 2
