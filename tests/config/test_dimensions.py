"""Search ranges: what is inside them, and the three forms of the study file."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtune.config import Choice, Dimension, Float, Int
from fairtune.config.dimensions import from_json
from fairtune.config.yaml12 import dumps, loads
from fairtune.errors import ConfigError

finite = st.floats(-1e9, 1e9, allow_nan=False)
positive = st.floats(1e-9, 1e9)


@st.composite
def floats(draw: st.DrawFn) -> Float:
    """Return any valid Float."""
    log = draw(st.booleans())
    low, high = sorted(draw(st.tuples(positive, positive) if log else st.tuples(finite, finite)))
    step = None if log else draw(st.none() | st.floats(1e-6, 1e6))
    return Float(low, high, log, step)


@st.composite
def ints(draw: st.DrawFn) -> Int:
    """Return any valid Int."""
    log = draw(st.booleans())
    low, high = sorted(draw(st.tuples(*[st.integers(1 if log else -1000, 1000)] * 2)))
    return Int(low, high, log, None if log else draw(st.none() | st.integers(1, 50)))


scalar = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abc")
choices = st.lists(scalar, min_size=1, unique_by=lambda v: (type(v), v)).map(
    lambda options: Choice(tuple(options))
)


@given(st.one_of(floats(), ints(), choices))
def test_every_range_is_read_back_from_its_written_form(dimension: Dimension) -> None:
    again = from_json(dimension.to_json())
    assert again == dimension
    assert type(again) is type(dimension)


@given(st.one_of(floats(), ints()))
def test_every_range_survives_a_file(dimension: Dimension) -> None:
    assert from_json(loads(dumps(dimension.to_json())).data) == dimension


@given(floats(), st.integers(1, 9))
def test_points_lie_in_the_range_in_order(dimension: Float, count: int) -> None:
    points = dimension.points(count)
    assert len(points) == count
    slack = 1e-9 * max(abs(dimension.low), abs(dimension.high))
    assert all(dimension.low - slack <= p <= dimension.high + slack for p in points)
    assert points == sorted(points)


def test_points_are_even_on_the_scale_of_the_range() -> None:
    assert Float(0, 6).points(3) == [1, 3, 5]
    assert Float(0, 4).points(1) == [2]
    assert Float(1, 1e6, log=True).points(3) == pytest.approx([10, 1e3, 1e5])
    assert Float(1, 100, log=True).points(1) == pytest.approx([10])


@pytest.mark.parametrize(
    ("dimension", "inside", "outside"),
    [
        (Float(0.1, 1), [0.1, 1, 1.0, 0.5], [0.09, 1.01, math.nan, math.inf, True, "0.5", None]),
        (Int(1, 8), [1, 8], [0, 9, 1.0, True, "1", None]),
        (Int(1, 8, step=3), [1, 4, 7], [2, 8]),
        (Choice((1, "a", True)), [1, "a", True], [1.0, "b", False, None, []]),
    ],
)
def test_contains(dimension: Dimension, inside: list[Any], outside: list[Any]) -> None:
    assert all(dimension.contains(value) for value in inside)
    assert not any(dimension.contains(value) for value in outside)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Float(2, 1),
        lambda: Float(0, math.inf),
        lambda: Float(math.nan, 1),
        lambda: Float(0, 1, log=True),
        lambda: Float(1, 2, log=True, step=0.1),
        lambda: Float(1, 2, step=0),
        lambda: Int(3, 1),
        lambda: Int(0, 5, log=True),
        lambda: Int(1, 5, step=-1),
        lambda: Choice(()),
        lambda: Choice(("a", "b", "a")),
    ],
)
def test_what_is_no_range_is_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


def test_options_of_different_types_are_different() -> None:
    assert len(Choice((1, 1.0, True, "1")).options) == 4


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{uniform: [0, 1]}",
        "{int: [0, 1], float: [0, 1]}",
        "{int: [1.5, 3]}",
        "{int: [1, true]}",
        "{int: [1]}",
        "{int: [1, 2, 3]}",
        "{int: 3}",
        "{int: [1, 8], step: 0.5}",
        "{float: [a, b]}",
        "{float: ['1', '2']}",
        "{float: [1, 2], lgo: true}",
        "{float: [1, 2], log: yes}",
        "{float: [1, 2], log: 1}",
        "{float: [1], step: 1}",
        "{one_of: []}",
        "{one_of: a}",
        "{one_of: [[1], 2]}",
        "{one_of: [1, 2], log: true}",
    ],
)
def test_what_is_no_distribution_is_refused_with_a_message(text: str) -> None:
    with pytest.raises(ConfigError):
        from_json(loads(text).data)
