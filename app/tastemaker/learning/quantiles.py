"""Three functions of statistics, without the time it takes to import scipy.

The web process compares versions while a person waits, and never loads a numeric library larger
than numpy.
"""

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray


def normal_cdf(x: float) -> float:
    """Share of a standard normal distribution below `x`."""
    return math.erfc(-x / math.sqrt(2)) / 2


def logistic(logits: NDArray[Any]) -> NDArray[np.float64]:
    """1 / (1 + e⁻ˣ) of every value, in a form that cannot overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * np.asarray(logits, np.float64))


@lru_cache(maxsize=256)
def t_quantile(p: float, degrees: int) -> float:
    """The point below which a share `p` (0.5 ≤ p < 1) of Student's t with so many degrees of
    freedom lies; exact to 1e-6.

    Up to 100 degrees it inverts the finite series of Abramowitz & Stegun 26.7.3-4 by halving;
    beyond, the Cornish-Fisher expansion 26.7.5 is closer than that.
    """
    z = NormalDist().inv_cdf(p)
    if degrees > 100:
        first = (z**3 + z) / 4
        second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
        third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
        return z + first / degrees + second / degrees**2 + third / degrees**3
    low, high = 0.0, math.pi / 2  # of the angle atan(t / √degrees)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < 2 * p - 1 else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _within(angle: float, degrees: int) -> float:
    """Share of Student's t between −t and t, where t = √degrees · tan(angle)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
