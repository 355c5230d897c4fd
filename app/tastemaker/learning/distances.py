"""Distances of many rows to many others, a block of rows at a time, so that memory is bounded."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE = 4096


def distance_blocks(
    points: NDArray[Any], centres: NDArray[Any], rows_at_once: int = ROWS_AT_ONCE
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """|c|² − 2 p·c for blocks of the points p (n, k) and all centres c (m, k): the rows of each
    block, and their values (rows, m).

    It orders the centres by their distance to p as the squared distance does, which is |p|² more.
    The sum cancels badly for twins: it is off by about 1e-7 of the squares in float32.
    """
    squares, turned = np.square(centres).sum(1), -2 * centres.T
    for start in range(0, len(points), rows_at_once):
        rows = slice(start, min(start + rows_at_once, len(points)))
        block = points[rows] @ turned
        block += squares
        yield rows, block
