"""Labelled images that look alike and were scored far apart: one of the two is probably wrong."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FAR = 0.3  # of the scale: twice what chance does to two honest scores of one picture (σ = 1 point)
# How near is a near-twin, in median distances from a labelled image to its nearest neighbour. What
# comes from one source need only be as near as neighbours usually are: a photograph and its
# blurred copy are relatives, and rightly scored apart.
TWIN, RELATIVE = 0.5, 1.0
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Contradiction:
    """Positions of two labels, how far apart they are (0–1), and how far their images are, in
    usual distances between neighbours."""

    first: int
    second: int
    gap: float
    distance: float


def contradictions(
    features: Array, labels: Array, groups: Array, *, limit: int = 100
) -> list[Contradiction]:
    """At most `limit` pairs among the labelled images, the largest gap first, nearest first among
    equals. `features` (n, k), `labels` (n,) in [0, 1], `groups` (n,) equal for one source.
    An image is in one pair only, or one slip would fill the list. Memory is bounded; the work is
    n²k."""
    points = np.ascontiguousarray(features, np.float32)
    labels, groups = np.asarray(labels, np.float64), np.asarray(groups)
    n = len(points)
    if n < 2:
        return []
    squares = np.einsum("ij,ij->i", points, points)
    rows: list[Array] = []
    columns: list[Array] = []
    distances: list[Array] = []
    nearest = np.empty(n, np.float32)
    usual = np.inf  # of the rows seen so far: a first guess that only keeps the lists short
    for start in range(0, n, ROWS_AT_ONCE):
        part = slice(start, min(start + ROWS_AT_ONCE, n))
        apart = squares[part, None] + squares - 2 * (points[part] @ points.T)
        apart[np.arange(part.stop - start), np.arange(start, part.stop)] = np.inf
        nearest[part] = np.sqrt(np.maximum(apart.min(1), 0))
        usual = float(np.median(nearest[: part.stop]))
        near = apart <= max(2 * RELATIVE * usual, 1e-6) ** 2
        near &= np.abs(labels[part, None] - labels) >= FAR - 1e-9
        near &= np.arange(n) > np.arange(start, part.stop)[:, None]
        i, j = np.nonzero(near)
        rows.append(start + i)
        columns.append(j)
        distances.append(np.sqrt(np.maximum(apart[i, j], 0)))
    first, second = np.concatenate(rows), np.concatenate(columns)
    distance = np.concatenate(distances) / max(usual, 1e-12)
    reach = np.where(groups[first] == groups[second], RELATIVE, TWIN)
    kept = distance <= reach
    first, second, distance = first[kept], second[kept], distance[kept]
    gap = np.abs(labels[first] - labels[second])
    found: list[Contradiction] = []
    taken: set[int] = set()
    for at in np.lexsort((distance, -gap)):
        pair = int(first[at]), int(second[at])
        if len(found) < limit and taken.isdisjoint(pair):
            found.append(Contradiction(*pair, float(gap[at]), float(distance[at])))
            taken.update(pair)
    return found
