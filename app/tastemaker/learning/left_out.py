"""Predictions of a linear smoother for rows that it never saw, without refitting: the identity that
the head of `ridge` states."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

PAIRS_AT_ONCE = 4096  # of rows of one group, looked at together


@dataclass(frozen=True)
class Block:
    """Groups of one size (rows: groups, size) and, for every penalty, their blocks of H: of each
    pair of rows of a group the entry (groups, pairs, penalties)."""

    rows: Array
    entries: Array


def members_of(groups: ArrayLike | None, n: int) -> list[Array]:
    """Row indices of every group, groups of equal size stacked: a list of (groups, size).

    Without groups every row is one by itself.
    """
    keys = np.arange(n) if groups is None else np.asarray(groups)
    order = np.argsort(keys, kind="stable")
    starts, sizes = np.unique(keys[order], return_index=True, return_counts=True)[1:]
    return [order[starts[sizes == size][:, None] + np.arange(size)] for size in np.unique(sizes)]


def own_blocks(z: Array, shrink: Array, members: list[Array]) -> list[Block]:
    """The blocks of H for the groups, whose rows are `members`, those of one size stacked (groups,
    size). Z (n, axes) are centred rows, `shrink` (axes, penalties) is 1 ÷ (E + λ)."""
    blocks = []
    shrink = shrink.astype(z.dtype)
    for same_size in members:
        first, second = np.triu_indices(same_size.shape[1])
        # H has an entry per pair of rows, so all groups and penalties share one matrix product.
        at_once = max(1, PAIRS_AT_ONCE // len(first))
        for start in range(0, len(same_size), at_once):
            rows = same_size[start : start + at_once]  # (groups, size)
            pairs = z[rows[:, first]] * z[rows[:, second]]  # (groups, pairs, axes)
            blocks.append(Block(rows, 1 / len(z) + (pairs @ shrink).astype(np.float64)))
    return blocks


def without_own_group(
    residuals: Array, blocks: list[Block], rank_one: Array | None = None
) -> Array:
    """(I − H_gg)⁻¹ residuals_g of every group g, for every penalty: (n, penalties). To H comes
    vvᵀ for the columns v of `rank_one` (n, penalties), one for each penalty."""
    out = np.empty_like(residuals)
    for block in blocks:
        rows, entries = block.rows, block.entries
        size = rows.shape[1]
        first, second = np.triu_indices(size)
        if rank_one is not None:
            entries = entries + rank_one[rows[:, first]] * rank_one[rows[:, second]]
        if size == 1:
            out[rows[:, 0]] = residuals[rows[:, 0]] / (1 - entries[:, 0])
            continue
        system = np.empty((len(rows), residuals.shape[1], size, size))
        system[:, :, first, second] = -entries.swapaxes(1, 2)
        system[:, :, second, first] = -entries.swapaxes(1, 2)
        system[:, :, np.arange(size), np.arange(size)] += 1
        right = residuals[rows].swapaxes(1, 2)[..., None]
        out[rows] = np.linalg.solve(system, right)[..., 0].swapaxes(1, 2)
    return out
