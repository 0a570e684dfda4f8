"""Tables of the page as rows of text cells, ready for the template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fairtune.report.words import NOTHING, number


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What it says.
        tone: `plain`, `quiet` (a suppressed or secondary figure), `strong` or `alarm`.
    """

    text: str
    tone: str = "plain"


@dataclass(frozen=True)
class Grid:
    """One table.

    Attributes:
        caption: What it shows.
        columns: Heads; the first column names the rows.
        rows: Cells by row.
        numeric: Whether the columns after the first hold figures.
        notes: Sentences below it.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: bool = True
    notes: Sequence[str] = ()


def cell(value: Any, tone: str = "plain") -> Cell:
    """Return a value as a cell: figures with three decimals, whole numbers whole."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell(NOTHING, "quiet")
    if isinstance(value, bool):
        return Cell("yes" if value else "no", tone)
    if isinstance(value, float):
        return Cell(number(value), tone)
    return Cell(str(value), tone)


def plain_grid(frame: pd.DataFrame, caption: str) -> Grid:
    """Return a data frame as a table."""
    rows = [[cell(value) for value in row] for row in frame.astype(object).to_numpy().tolist()]
    return Grid(caption, [str(c) for c in frame.columns], rows)
