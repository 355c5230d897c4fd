"""Vectors as they are stored, in the numbers that are computed with."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.learning.distances import ROWS_AT_ONCE

Array = NDArray[Any]
CACHED = 1 << 18  # numbers of float32 that stay in a core's own cache


def in_float32(x: Array) -> Iterator[tuple[int, Array]]:
    """x (N, D) in float32, some rows at a time: the number of the first row, and rows that are good
    until the next ones come.

    numpy turns float16 into float32 number by number. Here the bits are moved to where float32 has
    them, which takes half the time; what differs is the exponent, by 112. Subnormal numbers come
    out right as well; infinity and NaN, which no library holds, would not.
    """
    at_once = ROWS_AT_ONCE
    if x.dtype != np.float16:
        for start in range(0, len(x), at_once):
            yield start, np.asarray(x[start : start + at_once], np.float32)
        return
    at_once = max(1, CACHED // x.shape[1])
    bits = np.empty((at_once, x.shape[1]), np.int32)
    for start in range(0, len(x), at_once):
        half = np.ascontiguousarray(x[start : start + at_once]).view(np.int16)
        part = bits[: len(half)]
        np.copyto(part, half)
        np.left_shift(part, 13, out=part)
        np.bitwise_and(part, np.int32(-0x70002000), out=part)  # the sign, exponent and fraction
        rows = part.view(np.float32)
        np.multiply(rows, np.float32(2.0**112), out=rows)
        yield start, rows
