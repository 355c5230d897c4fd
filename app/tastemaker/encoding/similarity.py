"""Which vectors are like a given one: cosines over a matrix, and the highest of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import Conflict

ROWS_AT_ONCE = 4096


def cosines(x: NDArray[np.floating[Any]], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) cosine of the rows x (N, D) with a vector (D,); 0 where either has no length. x may be
    float16: it is widened a part at a time."""
    if not len(x):
        return np.empty(0, np.float32)
    if x.shape[1] != len(vector):
        raise Conflict(
            f"This vector has {len(vector)} numbers; those of the project have {x.shape[1]}.",
            "Use the encoder that the project was embedded with.",
        )
    similarity = np.zeros(len(x), np.float32)
    for start in range(0, len(x), ROWS_AT_ONCE):
        rows = np.asarray(x[start : start + ROWS_AT_ONCE], np.float32)
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows)) * np.linalg.norm(vector)
        part = similarity[start : start + len(rows)]
        np.divide(rows @ vector, lengths, out=part, where=lengths > 0)
    return similarity


def highest(values: NDArray[np.floating[Any]], n: int) -> NDArray[np.intp]:
    """Rows of the n highest values, highest first, ties by row: without sorting all of them."""
    n = min(max(n, 0), len(values))
    if n == 0:
        return np.empty(0, np.intp)
    candidates = np.flatnonzero(values >= np.partition(values, -n)[-n])
    return candidates[np.argsort(-values[candidates], kind="stable")][:n]
