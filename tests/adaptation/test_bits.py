from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtune.adaptation import ALIASES, SPACES, Mask, MaskSpace, Rule
from fairtune.config import Choice
from fairtune.errors import FairtuneError, ModelError
from fairtune.models import load
from fairtune.models.backbone import describe

TINY = describe(load("test_vit"))
SMALL = describe(load("vit_small_dinov2"))
SIZES = {
    "tune_full_block": 12,
    "tune_attention_blocks_random": 12,
    "tune_layernorm_blocks_random": 12,
    "tune_mlp_blocks_random": 12,
    "tune_attention_layernorm": 12,
    "tune_attention_mlp": 12,
    "tune_layernorm_mlp": 12,
    "tune_attention_layernorm_mlp": 12,
    "auto_peft1": 36,
    "auto_peft2": 48,
    "tune_attention_params_random": 48,
}


def bits(*types: str, always: tuple[str, ...] = ()) -> MaskSpace:
    space = SPACES.parse({"bits": {"types": list(types), "always": list(always)}})
    assert isinstance(space, MaskSpace)
    return space


def points(space: MaskSpace) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: st.booleans() for name in space.dimensions(TINY)})


def test_every_tuning_method_of_fairtune_has_its_number_of_bits() -> None:
    found = {name: len(SPACES.parse(alias).dimensions(SMALL)) for name, alias in ALIASES.items()}  # type: ignore[attr-defined]
    assert found == SIZES


def test_switches_are_interleaved_by_block_and_boolean() -> None:
    dimensions = bits("norm", "attn").dimensions(TINY)
    assert list(dimensions)[:4] == ["norm.0", "attn.0", "norm.1", "attn.1"]
    assert set(dimensions.values()) == {Choice((False, True))}


@pytest.mark.parametrize("alias", ALIASES)
@given(st.data())
def test_every_point_is_a_mask_and_every_such_mask_a_point(alias: str, data: Any) -> None:
    space = SPACES.parse(ALIASES[alias])
    assert isinstance(space, MaskSpace)
    point = data.draw(points(space))
    mask = space.decode(point, TINY)
    assert set(mask.units) <= set(TINY.names)
    assert space.encode(mask, TINY) == point


@given(st.sets(st.sampled_from(TINY.names)))
def test_encode_says_exactly_the_mask_or_nothing(chosen: set[str]) -> None:
    space, mask = bits("norm1", "attn", "norm2", "mlp"), Mask.of(chosen, TINY)
    point = space.encode(mask, TINY)
    assert point is None or space.decode(point, TINY) == mask


def test_encode_by_hand() -> None:
    space = bits("norm", "attn")
    point = space.encode(Rule.parse("attn:1,norm:0-1").mask(TINY), TINY)
    assert point is not None
    assert [name for name, on in point.items() if on] == ["norm.0", "norm.1", "attn.1"]
    assert space.encode(Rule.parse("mlp:0").mask(TINY), TINY) is None
    assert space.encode(Rule.parse("norm1:0").mask(TINY), TINY) is None
    assert space.encode(Rule.parse("attn:0,stem").mask(TINY), TINY) is None


def test_what_always_trains_is_in_every_mask() -> None:
    space = bits("attn", always=("pos", "norm"))
    off = dict.fromkeys(space.dimensions(TINY), False)
    assert space.decode(off, TINY) == Rule.parse("norm:all,pos").mask(TINY)
    assert space.encode(Rule.parse("attn:0,norm:all").mask(TINY), TINY) is None


def test_one_switch_may_join_types() -> None:
    space = bits("attn+norm")
    point = dict.fromkeys(space.dimensions(TINY), False) | {"attn+norm.3": True}
    assert space.decode(point, TINY) == Rule.parse("attn+norm:3").mask(TINY)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"types": []}, "types"),
        ({"types": ["attn", "norm", "attn"]}, "more than once"),
        ({"types": ["attn"], "alway": ["pos"]}, "alway"),
    ],
)
def test_a_wrong_declaration_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FairtuneError, match=message):
        SPACES.parse({"bits": fields})


@pytest.mark.parametrize(
    "space", [bits("attention"), bits("attn", always=("possition",)), bits("head")]
)
def test_types_of_another_model_are_refused(space: MaskSpace) -> None:
    with pytest.raises(ModelError, match="no unit type"):
        space.dimensions(TINY)
