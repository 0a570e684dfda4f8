"""Digests: the same on every machine, in every version, for ever. A run's key depends on it."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtune.config import canonical_json, digest

FIXED = [
    (None, "74234e98afe7498fb5daf1f36ac2d78a"),
    ({}, "44136fa355b3678a1146ad16f7e8649e"),
    ({"b": 1, "a": [1.0, True, "größe"]}, "3559762ee000c220babc919d4514756c"),
    (
        {"lr": 1e-05, "mask": ["blocks.7.attn.qkv.weight"], "seed": 0},
        "a0632d00b3a8fd3fdb1032049b27a742",
    ),
]


@pytest.mark.parametrize(("value", "expected"), FIXED)
def test_the_digest_of_a_value_never_changes(value: Any, expected: str) -> None:
    assert digest(value) == expected


def test_the_text_below_the_digest() -> None:
    assert canonical_json({"b": 0.1, "a": [1, "ü"]}) == '{"a":[1,"ü"],"b":0.1}'
    assert canonical_json([1e-05, 1.0, 1, True, None]) == "[1e-05,1.0,1,true,null]"


def test_another_process_with_another_hash_seed_agrees() -> None:
    value = {"z": {"y": [1, 2.5]}, "a": None}
    code = "import sys, fairtune.config as c; print(c.digest(eval(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, repr(value)],
        env={"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == digest(value)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abcdef"), json_values, max_size=5), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, Any], random: Any) -> None:
    keys = list(value)
    random.shuffle(keys)
    assert digest({key: value[key] for key in keys}) == digest(value)


@pytest.mark.parametrize(
    ("a", "b"), [(1, 1.0), (1, True), (1, "1"), (None, "null"), ([], {}), ([1, 2], [2, 1])]
)
def test_values_that_differ_have_different_digests(a: Any, b: Any) -> None:
    assert digest(a) != digest(b)


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf]])
def test_what_has_no_json_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        digest(value)


def test_what_is_no_value_is_refused() -> None:
    with pytest.raises(TypeError):
        digest({"a": object()})
