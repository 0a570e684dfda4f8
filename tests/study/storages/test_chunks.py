"""Long attributes: written so that a reader sees the value before or the value after."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fairtune.study.storages.chunks import CHUNK, SIZE, in_chunks, joined

LONG = {"units": ["größe\n\"'" * 50] * 400}
LONGER = {"units": ["x" * SIZE * 3]}
MYSQL_TEXT = 65_535


def written(name: str, value: Any, attrs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**(attrs or {}), **dict(in_chunks(name, value))}


def test_short_values_are_written_as_ever() -> None:
    for value in ({"a": 1}, "x" * (SIZE - 2), None, [1.5]):
        assert list(in_chunks("plan", value)) == [("plan", value)]
        assert joined({"plan": value}) == {"plan": value}


def test_every_part_of_a_long_value_fits_into_a_column_of_every_database() -> None:
    for value in (LONG, LONGER, ['"' * SIZE], ["ü" * SIZE]):
        attrs = written("plan", value)
        assert len(attrs) > 2
        assert max(len(json.dumps(part)) for part in attrs.values()) <= MYSQL_TEXT
        assert joined(attrs) == {"plan": value}


def test_a_reader_sees_the_old_value_until_the_new_one_is_whole() -> None:
    attrs = written("plan", LONG)
    for key, part in in_chunks("plan", LONGER):
        assert joined(attrs)["plan"] == LONG
        attrs[key] = part
    assert joined(attrs)["plan"] == LONGER


def test_two_writers_may_take_turns_in_any_order() -> None:
    one, two = list(in_chunks("plan", LONG)), list(in_chunks("plan", LONGER))
    attrs: dict[str, Any] = {}
    for pair in zip(one[:-1], two[:-1]):
        attrs |= dict(pair)
    attrs |= dict(one) | dict(two)
    assert joined(attrs) == {"plan": LONGER}
    attrs |= dict(one)
    assert joined(attrs) == {"plan": LONG}


def test_writing_a_value_again_adds_nothing_and_names_share_chunks() -> None:
    attrs = written("plan", LONG)
    again = written("other", LONG, written("plan", LONG, attrs))
    assert set(again) - set(attrs) == {"other"}
    assert joined(again) == {"plan": LONG, "other": LONG}
    assert sum(name.startswith(CHUNK) for name in again) == len(again) - 2


@given(st.text(min_size=1, max_size=50), st.integers(1, 3000))
def test_any_text_comes_back(text: str, times: int) -> None:
    value = {"t": text * times}
    assert joined(json.loads(json.dumps(written("a", value)))) == {"a": value}
