"""The perceptual hash, by which near-duplicates are found."""

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def perceptual_hash(picture: Image.Image) -> int:
    """The DCT hash of a picture as a signed 64-bit integer (it fits a database column).

    The 8×8 lowest frequencies of the 32×32 grey picture; each bit is whether a coefficient
    lies above their median (Zauner 2010; the bits and their order are those of `imagehash.phash`).
    """
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), float)
    low = (_dct(32) @ grey @ _dct(32).T)[:8, :8]
    bits = np.packbits(low > np.median(low)).tobytes()
    return int.from_bytes(bits, "big", signed=True)


def hamming(one: int, other: int) -> int:
    """In how many of 64 bits two perceptual hashes differ."""
    return ((one ^ other) & (2**64 - 1)).bit_count()


@functools.lru_cache(maxsize=1)
def _dct(n: int) -> NDArray[np.float64]:
    """The n×n matrix of the unnormalised DCT-II: row k holds 2·cos(πk(2j+1)/2n). As a product, not
    by `scipy.fft`: where coefficients vanish (flat and symmetric pictures) the bits of a hash hang
    on the rounding, and those of stored hashes must stay."""
    k, j = np.ogrid[:n, :n]
    return np.asarray(2 * np.cos(np.pi * k * (2 * j + 1) / (2 * n)), float)
