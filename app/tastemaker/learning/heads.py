"""A head at inference: embeddings in, scores out, as fast as the machine multiplies."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tastemaker.errors import Invalid
from tastemaker.learning.checkpoints import Checkpoint
from tastemaker.learning.city96 import NECK_SLOPE, TRUNK_SLOPE, Array, check_layout, times


@functools.cache
def matrix_type() -> torch.dtype:
    """The number format for large matrix products: bfloat16 where the processor has matrix units
    for it (AMX).

    Without them float32 is the faster one. With AVX2 alone torch takes bfloat16 apart number by
    number, three to five times as slow (docs/decisions/0016), and the vector instructions for it
    of a Xeon whose matrix units were masked took twice as long as float32 (0034).
    """
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return torch.bfloat16 if supported is not None and supported() else torch.float32


class Head:
    """Scores embeddings with one head: (N, features) float16 or float32 -> (N,) scores in [0, 1].

    With several outputs it gives (N, outputs) class probabilities: a softmax, or with `several`, of
    tags that do not exclude each other, each as a score; a file of ours says which. Memory stays
    bounded whatever N is (a memory-mapped array is read chunk by chunk). `precision='fast'`
    computes all but the last 64 numbers of a row in bfloat16, where the processor has it, at most
    about 2e-3 off; the sum of those is in float32, for in bfloat16 most scores of a large set would
    tie.
    """

    # Rows at once: enough for the matrix kernels, few enough to stay in the caches.
    CHUNKS: ClassVar[dict[torch.dtype, int]] = {torch.float32: 512, torch.bfloat16: 1024}
    FEW = 256  # rows up to which all threads share each matrix product

    def __init__(
        self,
        head: Checkpoint | Mapping[str, Array],
        precision: Literal["fp32", "fast"] = "fp32",
        *,
        several: bool = False,
    ) -> None:
        if precision not in ("fp32", "fast"):
            raise Invalid(f"The precision of scoring is 'fp32' or 'fast', not {precision!r}.")
        tensors = head.tensors if isinstance(head, Checkpoint) else head
        if isinstance(head, Checkpoint):
            several = head.metadata.get("read_out") == "sigmoid"
        self._several = several
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

        self._dtype = matrix_type() if precision == "fast" and not self._linear else torch.float32
        self._first = _layer(first, first_bias, self._dtype)
        self._long = [
            _layer(held[f"{name}.weight"], held[f"{name}.bias"], self._dtype, TRUNK_SLOPE)
            for name in ("up.1.long.0", "up.1.long.2")
        ]
        end = "up.1.long.4"
        self._residual = _residual(held[f"{end}.weight"], held[f"{end}.bias"], self._dtype)
        self._narrow = _layer(narrow, narrow_bias, self._dtype, NECK_SLOPE)
        self._last = last.float(), last_bias.float()

    def __call__(self, x: NDArray[Any]) -> Array:
        """Scores of the rows of x. A row that is not finite scores NaN."""
        if x.ndim != 2 or x.shape[1] != self.features:
            raise Invalid(
                f"This head scores embeddings of {self.features} numbers, "
                f"but these have the shape {times(x.shape)}.",
                "Use the encoder that the head was trained on.",
            )
        scores = np.empty((len(x), self.outputs), np.float32)
        threads = torch.get_num_threads()
        lanes = threads if len(x) > self.FEW else 1
        step = max(1, min(self.CHUNKS[self._dtype], -(-len(x) // lanes)))

        def score(start: int) -> None:
            with torch.inference_mode():
                chunk = torch.from_numpy(np.array(x[start : start + step]))
                scores[start : start + step] = self._activate(self._z(chunk)).numpy()

        starts = range(0, len(x), step)
        if lanes == 1:
            for start in starts:
                score(start)
            return self._shaped(scores)
        # Each thread takes whole chunks: where all share every matrix product, they wait for each
        # other at each, and a machine that is busy otherwise loses two thirds of its speed.
        try:
            with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,)) as run:
                list(run.map(score, starts))
        finally:
            torch.set_num_threads(threads)  # else threads started later would inherit the 1
        return self._shaped(scores)

    def _shaped(self, scores: Array) -> Array:
        return scores[:, 0] if self.outputs == 1 and not self._several else scores

    def _z(self, x: Tensor) -> Tensor:
        # float16 to bfloat16 by way of float32: the same numbers, and four times as fast
        u = self._first(x.float().to(self._dtype))
        if self._linear:
            r = u
        else:
            h = u
            for layer in self._long:
                h = layer(h)
            r = self._residual(h, u)
        return F.linear(self._narrow(F.relu_(r)).float(), *self._last)

    def _activate(self, z: Tensor) -> Tensor:
        if self._several:
            return torch.sigmoid(2 * z)
        return torch.sigmoid(2 * z) if self.outputs == 1 else torch.softmax(z, dim=1)


def as_score(outputs: Array) -> Array:
    """The outputs of a head as one number per image: scores (N,) as they are; of class
    probabilities (N, K), the probability of anything but class 0, the default."""
    return outputs if outputs.ndim == 1 else 1 - outputs[:, 0]


def _layer(
    weight: Tensor, bias: Tensor, dtype: torch.dtype, slope: float | None = None
) -> Callable[[Tensor], Tensor]:
    """x -> weight·x + bias in `dtype`, then a LeakyReLU where it has a slope.

    In bfloat16, oneDNN does all of it in one step with the weight laid out once for all, which is
    a tenth faster. torch offers that to its own compiler only, so its presence is checked first.
    """
    weight, bias = weight.to(dtype), bias.to(dtype)
    if dtype == torch.bfloat16 and _fuses():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, Head.CHUNKS[dtype])
        after = ("none", [], "") if slope is None else ("leaky_relu", [slope], "")
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, *after)
    if slope is None:
        return lambda x: F.linear(x, weight, bias)
    return lambda x: F.leaky_relu_(F.linear(x, weight, bias), slope)


def _residual(
    weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> Callable[[Tensor, Tensor], Tensor]:
    """(x, u) -> weight·x + bias + u in `dtype`; as `_layer`. bfloat16 rounds the sum once."""
    weight, bias = weight.to(dtype), bias.to(dtype)
    if dtype == torch.bfloat16 and _fuses():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, Head.CHUNKS[dtype])
        return lambda x, u: torch.ops.mkldnn._linear_pointwise.binary(x, u, packed, bias, "add")
    return lambda x, u: F.linear(x, weight, bias).add_(u)


def _fuses() -> bool:
    """Whether this torch offers oneDNN's fused layers."""
    ops = torch.ops.mkldnn
    return all(hasattr(ops, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))


def _collapse(held: Mapping[str, Tensor], inner: str, outer: str) -> tuple[Tensor, Tensor]:
    """outer(inner(x)) as one weight and one bias, in float64."""
    w1, b1, w2, b2 = (
        held[f"{layer}.{part}"].double() for layer in (inner, outer) for part in ("weight", "bias")
    )
    weight, bias = w2 @ w1, w2 @ b1 + b2
    return weight, bias
