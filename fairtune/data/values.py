"""Cells of a table as text that compares equal however they were written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pydantic

IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

Scalar: TypeAlias = bool | int | float | str | None


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


Values: TypeAlias = Annotated[tuple[Scalar, ...], pydantic.BeforeValidator(_listed)]
"""One value or a list of values; `null` stands for an empty cell."""

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\Z")
_SHOWN = 10
_LONGEST = 60


def text_of(value: object) -> str:
    """Return the text under which a cell or a value of a spec is compared.

    Numbers compare by value (`1`, `1.0` and `"1"` are equal), `True` and `true` are equal, and
    `None` is the empty cell. Everything else compares as written, without outer blanks.
    """
    if value is None:
        return ""
    text = str(value).strip()
    if text in ("True", "TRUE", "true", "False", "FALSE", "false"):
        return text.lower()
    if _NUMBER.match(text):
        number = float(text)
        return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
    return text


def texts(values: Iterable[object]) -> set[str]:
    """Return `text_of` of every value."""
    return {text_of(value) for value in values}


def coded(column: pd.Series[str], code: Callable[[str], int]) -> IntArray:
    """Return `code(text_of(cell))` of every cell, calling `code` once per distinct cell."""
    which, cells = pd.factorize(column)
    table = np.array([code(text_of(cell)) for cell in cells], dtype=np.int64)
    return table[which] if len(table) else np.empty(0, dtype=np.int64)


def number_of(text: str) -> float | None:
    """Return the number a cell holds, or None when it holds no finite number."""
    return float(text) if _NUMBER.match(text.strip()) else None


def shown(items: Iterable[object], limit: int = _SHOWN) -> str:
    """Return up to `limit` items as text, with the count of the others."""
    words = [str(item) for item in items]
    more = len(words) - limit
    return ", ".join(words[:limit]) + (f" and {more} more" if more > 0 else "")


def shown_cells(cells: Iterable[object]) -> str:
    """Return up to ten cells as `shown` does; a long one is said by its length.

    What is that long may be a clinical note, and no message shows one.
    """
    return shown(
        text if len(text) <= _LONGEST else f"a text of {len(text)} characters"
        for text in map(str, cells)
    )
