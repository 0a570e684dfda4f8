"""Values of search dimensions, for hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from fairtune.config import Choice, Dimension, Float, Int


def value_of(dimension: Dimension) -> st.SearchStrategy[Any]:
    """Return any value of a dimension."""
    if isinstance(dimension, Choice):
        return st.sampled_from(dimension.options)
    if isinstance(dimension, Int):
        return st.integers(dimension.low, dimension.high)
    assert isinstance(dimension, Float)
    return st.floats(dimension.low, dimension.high)
