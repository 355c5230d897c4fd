"""Writes ONNX files: nodes, numbers, inputs and outputs, as the Protocol Buffers of `onnx.proto`.

Only what a graph of float32 layers needs, so that publishing takes no library: a message is a row
of fields, each with its number, its kind and its bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPSET, IR_VERSION = 17, 8  # of 2022, which every runtime of today reads
FLOAT, UINT8, INT64 = 1, 2, 7
ELEMENTS = {"float32": FLOAT, "uint8": UINT8, "int64": INT64}
VARINT, BYTES, FIXED32 = 0, 2, 5


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # a negative number as its two's complement
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, value: int | float | str | bytes) -> bytes:
    if isinstance(value, float):
        return _varint(number << 3 | FIXED32) + np.float32(value).tobytes()
    if isinstance(value, int):
        return _varint(number << 3 | VARINT) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | BYTES) + _varint(len(content)) + content


def _tensor(name: str, value: NDArray[Any]) -> bytes:
    value = np.ascontiguousarray(value)
    dims = b"".join(_field(1, side) for side in value.shape)
    kind = _field(2, ELEMENTS[value.dtype.name])
    return dims + kind + _field(8, name) + _field(9, value.astype(value.dtype.newbyteorder("<"))
                                                  .tobytes())  # fmt: skip


def _attribute(name: str, value: int | float | Sequence[int]) -> bytes:
    if isinstance(value, float):
        return _field(1, name) + _field(2, value) + _field(20, 1)
    if isinstance(value, int):
        return _field(1, name) + _field(3, value) + _field(20, 2)
    return _field(1, name) + b"".join(_field(8, one) for one in value) + _field(20, 7)


def _value_info(name: str, element: int, shape: Sequence[int | str]) -> bytes:
    sides = b"".join(
        _field(1, _field(2, side) if isinstance(side, str) else _field(1, side)) for side in shape
    )
    return _field(1, name) + _field(2, _field(1, _field(1, element) + _field(2, sides)))


@dataclass
class Graph:
    """A graph under construction. Each call of `add` gives the name of what the node computes."""

    name: str
    _nodes: list[bytes] = field(default_factory=list)
    _numbers: dict[str, bytes] = field(default_factory=dict)
    _inputs: list[bytes] = field(default_factory=list)
    _outputs: list[bytes] = field(default_factory=list)

    def input(self, name: str, element: int, shape: Sequence[int | str]) -> str:
        self._inputs.append(_value_info(name, element, shape))
        return name

    def output(self, name: str, shape: Sequence[int | str]) -> None:
        """A float32 output, of the node that was named so."""
        self._outputs.append(_value_info(name, FLOAT, shape))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """An array of float32 or int64 under a name; the same name is the same array."""
        if name not in self._numbers:
            self._numbers[name] = _tensor(name, value)
        return name

    def number(self, value: float) -> str:
        return self.constant(f"number {value:g}", np.array(value, np.float32))

    def add(
        self, kind: str, *inputs: str, name: str = "", **attributes: int | float | Sequence[int]
    ) -> str:
        made = name or f"{kind} {len(self._nodes)}"
        told = (_field(5, _attribute(key, value)) for key, value in attributes.items())
        node = b"".join(_field(1, one) for one in inputs) + _field(2, made) + _field(3, made)
        self._nodes.append(node + _field(4, kind) + b"".join(told))
        return made

    def file(self, producer: str, metadata: dict[str, str]) -> bytes:
        graph = b"".join(
            (
                *(_field(1, node) for node in self._nodes), _field(2, self.name),
                *(_field(5, tensor) for tensor in self._numbers.values()),
                *(_field(11, one) for one in self._inputs),
                *(_field(12, one) for one in self._outputs),
            )
        )  # fmt: skip
        known = (_field(14, _field(1, key) + _field(2, value)) for key, value in metadata.items())
        return b"".join(
            (
                _field(1, IR_VERSION), _field(2, producer), _field(7, graph),
                _field(8, _field(1, "") + _field(2, OPSET)), *known,
            )
        )  # fmt: skip
