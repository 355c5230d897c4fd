"""Vectors as the original keeps them: one `.npy` file for each image, and no picture."""

import hashlib
from pathlib import Path

import numpy as np

from tastemaker.errors import Invalid


def vector_hash(vector: np.ndarray, fingerprint: str) -> str:
    """What stands for the SHA-256 of an image that is a vector of this encoder and no picture."""
    return hashlib.sha256(fingerprint.encode() + vector.astype("<f4").tobytes()).hexdigest()


def read_vector(path: Path) -> np.ndarray:
    """An `.npy` of shape (1, D) or (D,), finite. Never unpickles. Raises `Invalid`."""
    try:
        vector = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:  # its header may claim anything
        raise Invalid(f"“{path.name}” is not a plain .npy array.") from error
    vector = np.squeeze(vector)
    if vector.ndim != 1 or not 2 <= vector.size <= 65536 or vector.dtype.kind != "f":
        raise Invalid(f"“{path.name}” holds an array of shape {vector.shape}, not one vector.")
    if not np.isfinite(vector).all():
        raise Invalid(f"“{path.name}” holds values that are not numbers.")
    return vector.astype(np.float32)
