"""What a linear smoother predicts of a group of labels without having seen them (see `ridge`)."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

ROWS_AT_ONCE = 4096  # 4096 × 1280 float32 = 20 MB: large enough for BLAS, little beside a library


def members_of(groups: ArrayLike | None, n: int) -> list[Array]:
    """Row indices of every group, groups of equal size stacked: a list of (groups, size).

    Without groups every row is one by itself.
    """
    keys = np.arange(n) if groups is None else np.asarray(groups)
    order = np.argsort(keys, kind="stable")
    starts, sizes = np.unique(keys[order], return_index=True, return_counts=True)[1:]
    return [order[starts[sizes == size][:, None] + np.arange(size)] for size in np.unique(sizes)]


def without_own_group(
    residuals: Array, z: Array, shrink: Array, members: list[Array], rank_one: Array | None = None
) -> Array:
    """(I − H_gg)⁻¹ residuals_g of every group g, for every penalty: (n, penalties). To H comes
    vvᵀ for the columns v of `rank_one` (n, penalties), one for each penalty."""
    out = np.empty_like(residuals)
    shrink = shrink.astype(z.dtype)
    for same_size in members:
        size = same_size.shape[1]
        first, second = np.triu_indices(size)
        # H has an entry per pair of rows, so all groups and penalties share one matrix product.
        at_once = max(1, ROWS_AT_ONCE // len(first))
        for start in range(0, len(same_size), at_once):
            rows = same_size[start : start + at_once]  # (groups, size)
            pairs = z[rows[:, first]] * z[rows[:, second]]  # (groups, pairs, axes)
            entries = 1 / len(z) + (pairs @ shrink).astype(np.float64)
            if rank_one is not None:
                entries += rank_one[rows[:, first]] * rank_one[rows[:, second]]
            if size == 1:
                out[rows[:, 0]] = residuals[rows[:, 0]] / (1 - entries[:, 0])
                continue
            system = np.empty((len(rows), shrink.shape[1], size, size))
            system[:, :, first, second] = -entries.swapaxes(1, 2)
            system[:, :, second, first] = -entries.swapaxes(1, 2)
            system[:, :, np.arange(size), np.arange(size)] += 1
            right = residuals[rows].swapaxes(1, 2)[..., None]
            out[rows] = np.linalg.solve(system, right)[..., 0].swapaxes(1, 2)
    return out
