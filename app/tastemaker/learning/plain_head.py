"""A head without what it does not need, for a program that only multiplies: a browser, a runtime.

    u = up·x
    r = ReLU(u + long(u))          `long`: three layers, a LeakyReLU behind the first two; of a
                                   linear head it is silent, and r = ReLU(u)
    z = last·LeakyReLU(narrow·r)   score = sigmoid(2z)

The layers between which nothing bends are one, and units of `up` that nobody reads are gone: of a
linear head most of them. There is no torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tastemaker.learning.city96 import Array, check_layout


@dataclass(frozen=True)
class Dense:
    """y = weight·x + bias: (out, in) and (out,)."""

    weight: Array
    bias: Array


@dataclass(frozen=True)
class PlainHead:
    """`long` is empty where the trunk is linear."""

    up: Dense
    long: tuple[Dense, ...]
    narrow: Dense
    last: Dense


def plain_head(tensors: Mapping[str, Array]) -> PlainHead:
    """The same function as the 16 tensors, up to rounding. Raises `CheckpointError` where they are
    no head."""
    check_layout(tensors)

    def dense(name: str) -> Dense:
        return Dense(tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    up, narrow, last = dense("up.0"), _joined(dense("down.0"), dense("down.1")), _joined(
        dense("down.4"), dense("down.5")
    )  # fmt: skip
    long = tuple(dense(f"up.1.long.{n}") for n in (0, 2, 4))
    if long[2].weight.any() or long[2].bias.any():
        return PlainHead(up, long, narrow, last)
    read = narrow.weight.any(axis=0)
    return PlainHead(
        Dense(up.weight[read], up.bias[read]), (), Dense(narrow.weight[:, read], narrow.bias), last
    )


def _joined(inner: Dense, outer: Dense) -> Dense:
    """outer(inner(x)) as one layer, computed in float64."""
    w1, b1, w2, b2 = (
        np.asarray(value, np.float64)
        for value in (inner.weight, inner.bias, outer.weight, outer.bias)
    )
    weight, bias = w2 @ w1, w2 @ b1 + b2
    return Dense(weight.astype(np.float32), bias.astype(np.float32))
