"""What a `.npy` array tells of itself in its header, and what is the matter with one that cannot be
read."""

import io
import math
import os
from pathlib import Path
from typing import IO, Any

import numpy as np

from tastemaker.errors import Invalid
from tastemaker.files.damage import AGAIN, NPY, unreadable, unreadable_from

HEAD_BYTES = 2**12  # of a .npy; its header has a hundred, or some hundreds
NO_HEADER = (ValueError, OSError, EOFError, OverflowError)  # what reading one raises


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is stored by columns, and type; the file then stands at the values. Raises
    one of `NO_HEADER`."""
    version = np.lib.format.read_magic(file)
    reading = np.lib.format.read_array_header_2_0
    if version == (1, 0):
        reading = np.lib.format.read_array_header_1_0
    shape, by_columns, dtype = reading(file)
    return shape, by_columns, dtype


def rows_of(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, int]:
    """Rows and values of each; `Invalid` for what is no array of embeddings."""
    needed = "Rows of floating-point embeddings, (N, D), are needed."
    if len(shape) == 2 and not shape[0]:
        raise Invalid(f"{name} is empty: it holds no embedding.", needed)
    if len(shape) != 2 or dtype.kind != "f" or not math.prod(shape):
        raise Invalid(f"{name} holds an array of shape {shape}, type {dtype}.", needed)
    return shape[0], shape[1]


def npy_rows(name: str, head: bytes, size: int) -> tuple[int, int]:
    """Rows and values of each, as the first `HEAD_BYTES` of a `.npy` of `size` bytes tell. Raises
    `Invalid` as opening it would."""
    file = io.BytesIO(head)
    try:
        shape, _, dtype = read_header(file)
    except NO_HEADER as error:
        raise unreadable_from(name, head, NPY) from error
    rows, dim = rows_of(name, shape if len(shape) != 1 else (1, *shape), dtype)
    _check_length(name, size, file.tell() + rows * dim * dtype.itemsize)
    return rows, dim


def why_no_npy(source: Path) -> Invalid:
    """What to raise for a file that numpy does not map."""
    try:
        with source.open("rb") as file:
            shape, _, dtype = read_header(file)
            at, size = file.tell(), os.fstat(file.fileno()).st_size
        if not dtype.hasobject:
            _check_length(source.name, size, at + math.prod(shape) * dtype.itemsize)
    except NO_HEADER:
        return unreadable(source, NPY)
    except Invalid as cut_short:
        return cut_short
    if dtype.hasobject:
        return Invalid(
            f"{source.name} holds Python objects, which are never unpacked.",
            "Save an array of numbers alone.",
        )
    return Invalid(f"{source.name} cannot be read as an array.", "Write it with numpy.save.")


def _check_length(name: str, size: int, wanted: int) -> None:
    if size < wanted:
        raise Invalid(f"{name} is cut short: {size:,} of its {wanted:,} bytes are there.", AGAIN)
