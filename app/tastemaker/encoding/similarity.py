"""How vectors lie to each other: their lengths, cosines over a matrix, and the highest of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tastemaker.errors import Conflict

NUMBERS_AT_ONCE = 1 << 18  # of float32: they stay in a core's own cache


def are_normalised(x: NDArray[np.floating[Any]]) -> bool:
    """Whether rows of (n, D) have length 1, as float16 keeps it. Raw vectors are many times as
    long, so one such row decides it; rows that are not finite, or zero, do not count."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(x.astype(np.float64), axis=1)
    return bool((np.abs(lengths - 1) < 0.01).any())


def cosines(x: NDArray[np.floating[Any]], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) cosine of the rows x (N, D) with a vector (D,); 0 where either has no length. x may be
    float16: it is widened a part at a time, by torch, which takes a fifth of numpy's time."""
    import torch  # here, because the web process has none

    if not len(x):
        return np.empty(0, np.float32)
    if x.shape[1] != len(vector):
        raise Conflict(
            f"This vector has {len(vector)} numbers; those of the project have {x.shape[1]}.",
            "Use the encoder that the project was embedded with.",
        )
    rows, wanted = torch.from_numpy(x), torch.from_numpy(np.asarray(vector, np.float32))
    at_once = max(1, NUMBERS_AT_ONCE // x.shape[1])
    wide = torch.empty(min(at_once, len(x)), x.shape[1])
    products, lengths = torch.empty(len(x)), torch.empty(len(x))
    for start in range(0, len(x), at_once):
        part = rows[start : start + at_once]
        block = wide[: len(part)].copy_(part)
        products[start : start + len(part)] = block @ wanted
        lengths[start : start + len(part)] = torch.linalg.vector_norm(block, dim=1)
    lengths *= torch.linalg.vector_norm(wanted)
    similarity: NDArray[np.float32] = torch.where(lengths > 0, products / lengths, 0.0).numpy()
    return similarity


def highest(values: NDArray[np.floating[Any]], n: int) -> NDArray[np.intp]:
    """Rows of the n highest values, highest first, ties by row: without sorting all of them."""
    n = min(max(n, 0), len(values))
    if n == 0:
        return np.empty(0, np.intp)
    candidates = np.flatnonzero(values >= np.partition(values, -n)[-n])
    return candidates[np.argsort(-values[candidates], kind="stable")][:n]
