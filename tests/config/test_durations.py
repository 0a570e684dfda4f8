"""Lengths of time as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtune.config.durations import duration, seconds_of
from fairtune.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3h50m", 13800), ("90s", 90), ("2d", 172800), ("1d2h3m4s", 93784), (" 45M ", 2700)],
)
def test_a_length_is_read(text: str, seconds: int) -> None:
    assert seconds_of(text, "--time-budget") == seconds


@pytest.mark.parametrize("text", ["", "4", "h", "50m3h", "3h 50m", "-1h", "1.5h", "0s", "1w"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="3h50m") as caught:
        seconds_of(text, "--time-budget")
    assert caught.value.where == "--time-budget"


@given(st.integers(1, 10**8))
def test_what_is_printed_is_read_back(seconds: int) -> None:
    assert seconds_of(duration(seconds), "here") == seconds


def test_nothing_is_zero_seconds() -> None:
    assert duration(0.2) == "0s"
