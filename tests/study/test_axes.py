"""Positions in [0, 1]."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairtune.config import Choice, Dimension, Float, Int
from fairtune.study.axes import position, size, value_at

DIMENSIONS: list[Dimension] = [
    Float(-2, 6),
    Float(1e-5, 1e-1, log=True),
    Float(0.1, 0.7, step=0.1),
    Float(3, 3),
    Int(1, 12),
    Int(2, 9, step=2),
    Int(1, 1000, log=True),
    Int(7, 7),
    Int(7, 7, log=True),
    Choice((False, True)),
    Choice(("on", "off", 3, True)),
    Choice(("alone",)),
]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(DIMENSIONS), st.floats(-0.5, 1.5))
def test_every_position_is_a_value_and_the_value_comes_back(
    dimension: Dimension, place: float
) -> None:
    value = value_at(dimension, place)
    assert dimension.contains(value)
    again = position(dimension, value)
    assert 0 <= again <= 1
    assert value_at(dimension, again) == pytest.approx(value)


@pytest.mark.parametrize(
    ("dimension", "values", "places"),
    [
        (Float(-2, 6), [-2, 0, 6], [0, 0.25, 1]),
        (Float(1e-5, 1e-1, log=True), [1e-5, 1e-3, 1e-1], [0, 0.5, 1]),
        (Float(0.1, 0.7, step=0.1), [0.1, 0.3, 0.7], [0, 1 / 3, 1]),
        (Int(2, 9, step=2), [2, 4, 8], [0, 1 / 3, 1]),
        (Choice((False, True)), [False, True], [0, 1]),
        (Choice((1, True, "a")), [1, True, "a"], [0, 0.5, 1]),
    ],
)
def test_positions_follow_the_scale(
    dimension: Dimension, values: list[float], places: list[float]
) -> None:
    assert [position(dimension, value) for value in values] == pytest.approx(places)
    found = [value_at(dimension, place) for place in places]
    assert found == [pytest.approx(v) if isinstance(v, float) else v for v in values]


@pytest.mark.parametrize(
    ("dimension", "count"),
    [
        (Float(0, 1), None),
        (Float(2, 2), 1),
        (Float(0.1, 0.35, step=0.1), 3),
        (Int(1, 10, step=4), 3),
        (Int(1, 8, log=True), None),
        (Choice(("a", "b")), 2),
    ],
)
def test_sizes(dimension: Dimension, count: int | None) -> None:
    assert size(dimension) == count
