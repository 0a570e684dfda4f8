"""Weights of rows by which cells have the same say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def even(cell: NDArray[np.int64], count: int = 0) -> NDArray[np.float64]:
    """Return `(n,)` weights of mean 1 that give every cell with rows the same total.

    w_i = n_known / (cells with rows * n of its cell); 1 / (K C P(y, a)) where cells are the
    classes of groups and all have rows. A row of no cell has weight 1.

    Args:
        cell: `(n,)` codes, -1 for no cell.
        count: Number of cells, where it is known; those without a row change nothing.
    """
    known = cell >= 0
    sizes = np.bincount(cell[known], minlength=max(count, 1))
    share = (sizes > 0).sum() * sizes
    weight = np.zeros(len(sizes))
    np.divide(known.sum(), share, out=weight, where=sizes > 0)
    return np.where(known, weight[np.where(known, cell, 0)], 1.0)
