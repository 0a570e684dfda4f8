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


def cell_names(
    context: Context, attribute: str | None, by: Literal["group", "class", "both"]
) -> list[str]:
    """Return the names of the cells: `60+`, `class 1`, `60+ / class 1`."""
    classes = [f"class {i}" for i in range(2 if context.task == "binary" else context.outputs)]
    if by == "class":
        return classes
    groups = context.groups(attribute).names
    return list(groups) if by == "group" else [f"{g} / {c}" for g in groups for c in classes]
