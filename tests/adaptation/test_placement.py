"""Methods by unit type: the grammar, the disjoint parts of a mask, and the one settled form."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtune.adaptation.methods import METHODS
from fairtune.adaptation.placement import Methods, members
from fairtune.adaptation.rules import Rule
from fairtune.config.registry import name_of
from fairtune.errors import FairtuneError
from fairtune.models import load
from fairtune.models.backbone import describe

TINY = describe(load("test_vit"))


def mask(rule: str) -> tuple[str, ...]:
    return Rule.parse(rule).mask(TINY).units


def parts(value: Any, rule: str) -> list[tuple[str, str | None, tuple[str, ...]]]:
    found = Methods.parse(value).placements(mask(rule), TINY)
    return [(p.name, p.type, tuple(sorted(p.units))) for p in found]


def settled(value: Any, rule: str) -> dict[str, Any]:
    return Methods.parse(value).settled(mask(rule), TINY).to_json()


@pytest.mark.parametrize(
    "value",
    [
        "direct",
        {"lora": {"rank": 4}},
        {"lora": None},
        {"attn": "lora"},
        {"attn": {"lora": {"rank": 2}}, "norm1+norm2": "direct", "stem": "bitfit"},
        {"attn.qkv.weight": {"lora": {"targets": "qv"}}},
    ],
)
def test_what_is_written_survives_writing_and_reading(value: Any) -> None:
    methods = Methods.parse(value)
    assert Methods.parse(methods.to_json()) == methods
    assert Methods.parse(methods) is methods


def test_one_key_is_a_method_where_a_method_has_that_name() -> None:
    assert not Methods.parse({"lora": {"rank": 4}}).by_type
    assert [kind for kind, _ in Methods.parse({"attn": "lora"}).by_type] == ["attn"]
    assert not set(METHODS) & {*TINY.types, *TINY.singles}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "an empty mapping"),
        ({"lora": {}, "attn": "direct"}, "a method stands among unit types"),
        ({"attn": "loar"}, "did you mean 'lora'"),
        ({"loar": {"rank": 4}}, "'loar' is read as a unit type; did you mean 'lora'"),
        ({"attn": {"lora": {"rnk": 4}}}, "did you mean 'rank'"),
        ({"attn:all": "lora"}, "not a unit type"),
        ({"attn+": "lora"}, "not a unit type"),
        ({3: "lora"}, "not a unit type"),
        (7, "written NAME"),
        (["lora"], "written NAME"),
    ],
)
def test_what_is_no_method_is_refused(value: Any, words: str) -> None:
    with pytest.raises(FairtuneError) as caught:
        Methods.parse(value)
    assert words in str(caught.value)


def test_units_in_no_listed_type_train_directly() -> None:
    found = parts({"attn": "lora", "final_norm": "ln_tuning"}, "attn:0,norm:0,final_norm")
    assert found == [
        ("lora", "attn", mask("attn:0")),
        ("ln_tuning", "final_norm", ("final_norm",)),
        ("direct", None, mask("norm:0")),
    ]


def test_a_type_may_be_several_and_may_have_dots() -> None:
    assert parts({"norm1+attn.qkv": "bitfit"}, "norm1:0,attn:0") == [
        ("bitfit", "norm1+attn.qkv", mask("norm1:0,attn.qkv:0")),
        ("direct", None, mask("attn.proj:0")),
    ]
    assert members("stem+norm1", TINY)[0] == "stem"


def test_types_that_share_a_unit_need_the_same_method() -> None:
    with pytest.raises(FairtuneError, match="two types with different methods") as caught:
        parts({"attn": "lora", "bias": "bitfit"}, "norm:0")
    assert "blocks.0.attn.qkv.bias" in str(caught.value)
    found = parts({"attn": "bitfit", "bias": "bitfit"}, "block:0")
    assert sorted(u for _, _, units in found for u in units) == sorted(mask("block:0"))


def test_a_type_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(FairtuneError, match="no unit type of that name") as caught:
        parts({"attnn": "lora"}, "attn:0")
    assert "did you mean 'attn'" in str(caught.value)


def test_only_what_acts_on_the_mask_stays() -> None:
    lora = {"lora": Methods.parse("lora").rest.to_json()}  # type: ignore[attr-defined]
    assert settled({"attn": "lora", "mlp": "ssf"}, "attn:0,norm:0") == {"attn": lora}
    assert settled({"attn": "lora", "norm": "direct"}, "attn:0,norm:0") == {"attn": lora}
    assert settled({"attn": "lora", "mlp": "ssf"}, "attn:0") == lora
    assert settled("lora", "attn:0") == lora
    assert settled({"attn": "direct", "mlp": "ssf"}, "attn:0,norm:0") == {"direct": {}}
    assert settled({"mlp": "ssf"}, "norm:0") == {"direct": {}}
    assert settled({"proj+attn.qkv": "lora"}, "block:0").keys() == {"attn.qkv+proj"}


def test_an_empty_mask_keeps_what_is_written_for_masks_to_come() -> None:
    assert Methods.parse({"attn": "lora"}).settled((), TINY) == Methods.parse({"attn": "lora"})


rules = st.sampled_from(["fullft", "block:0", "attn:0-2,norm:all", "stem,pos", "bias:all"])
methods = st.dictionaries(
    st.sampled_from(["attn", "mlp", "norm1", "norm2", "stem", "pos", "final_norm"]),
    st.sampled_from(["direct", "bitfit", "lora", "ssf", {"lora": {"rank": 4}}]),
    min_size=1,
)


@given(methods, rules)
def test_parts_are_disjoint_and_cover_the_mask(value: dict[str, Any], rule: str) -> None:
    found = Methods.parse(value).placements(mask(rule), TINY)
    units = [u for p in found for u in p.units]
    assert sorted(units) == sorted(mask(rule))
    assert all(p.units for p in found)


@given(methods, rules)
def test_settling_changes_no_unit_and_is_done_once(value: dict[str, Any], rule: str) -> None:
    def by_unit(one: Methods) -> dict[str, str]:
        return {
            u: f"{name_of(p.method)} {p.method.to_json()}"  # type: ignore[arg-type, attr-defined]
            for p in one.placements(mask(rule), TINY)
            for u in p.units
        }

    written = Methods.parse(value)
    one = written.settled(mask(rule), TINY)
    assert by_unit(one) == by_unit(written)
    assert one.settled(mask(rule), TINY) == one
    assert Methods.parse(one.to_json()) == one
