"""Cells of the training rows: groups, classes, or each class in each group."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fairtune.mitigation.context import Context, Ints

Floats = NDArray[np.float64]


def cells(
    context: Context, attribute: str | None, by: Literal["group", "class", "both"], method: str
) -> tuple[Ints, int]:
    """Return the `(n,)` cell of every fitted row, -1 where its group is unknown, and their number.

    Raises:
        DataError: Fewer than two groups, or several targets where classes are asked for.
    """
    if by == "class":
        return context.classes(method)
    groups = context.groups(attribute)
    if by == "group":
        return groups.codes, len(groups)
    label, classes = context.classes(method)
    return np.where(groups.codes < 0, -1, groups.codes * classes + label), len(groups) * classes


def even(cell: Ints, count: int) -> Floats:
    """Return `(n,)` weights of mean 1 that give every cell with rows the same total.

    w_i = n_known / (cells with rows * n of its cell); a row of no cell keeps weight 1.

    Args:
        cell: `(n,)`, -1 for no cell.
        count: Number of cells.
    """
    known = cell >= 0
    sizes = np.bincount(cell[known], minlength=count)
    share = (sizes > 0).sum() * sizes
    weight = np.zeros(count)
    np.divide(known.sum(), share, out=weight, where=sizes > 0)
    return np.where(known, weight[np.where(known, cell, 0)], 1.0)


def cell_names(
    context: Context, attribute: str | None, by: Literal["group", "class", "both"]
) -> list[str]:
    """Return the names of the cells: `60+`, `class 1`, `60+ / class 1`."""
    classes = [f"class {i}" for i in range(2 if context.task == "binary" else context.outputs)]
    if by == "class":
        return classes
    groups = context.groups(attribute).names
    return list(groups) if by == "group" else [f"{g} / {c}" for g in groups for c in classes]
