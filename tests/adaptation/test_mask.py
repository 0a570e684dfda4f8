from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit_units import towers

from fairtune.adaptation import Mask, Rule
from fairtune.errors import ModelError
from fairtune.models import load
from fairtune.models.backbone import describe

TINY = describe(load("test_vit"))
CNN = describe(load("tf_efficientnet_lite0"))
PAIR = towers(4, 2)


@given(st.lists(st.sampled_from(TINY.names), max_size=12), st.randoms())
def test_a_mask_is_a_set(chosen: list[str], random: object) -> None:
    shuffled = [*chosen, *chosen]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = Mask.of(chosen, TINY), Mask.of(shuffled, TINY)
    assert one == other
    assert one.hash == other.hash
    assert list(one.units) == sorted(set(chosen))


@given(st.sets(st.sampled_from(TINY.names)), st.sets(st.sampled_from(TINY.names)))
def test_equal_hashes_are_equal_masks(one: set[str], other: set[str]) -> None:
    assert (Mask.of(one, TINY).hash == Mask.of(other, TINY).hash) == (one == other)


@given(st.sets(st.sampled_from(TINY.names)))
def test_a_mask_and_its_complement_are_the_whole(chosen: set[str]) -> None:
    rest = set(TINY.names) - chosen
    assert Mask.of(chosen, TINY).share(TINY) + Mask.of(rest, TINY).share(TINY) == pytest.approx(1)


def test_trainable_counts_parameters() -> None:
    assert Rule.parse("norm1:0").mask(TINY).trainable(TINY) == 2 * 64
    assert Mask(()).trainable(TINY) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("head", "the head always trains"),
        ("blocks.0.attn.qkv.wieght", "did you mean 'blocks.0.attn.qkv.weight'"),
        ("blocks.6.norm1.weight", "does not have"),
    ],
)
def test_a_mask_of_another_model_is_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Mask.of(["stem", name], TINY)


@pytest.mark.parametrize(
    ("rule", "depth"),
    [
        ("none", None),
        ("final_norm", None),
        ("attn:2+4", 2),
        ("norm:all", 0),
        ("mlp:5,final_norm", 5),
        ("mlp:5,stem", -1),
        ("pos", -1),
        ("fullft", -1),
    ],
)
def test_lowest_block(rule: str, depth: int | None) -> None:
    assert Rule.parse(rule).mask(TINY).lowest_block(TINY) == depth


def test_lowest_block_goes_by_the_order_of_the_network_not_by_names() -> None:
    assert CNN.singles == ("stem", "final_conv")
    assert Mask(("stem",)).lowest_block(CNN) == -1
    assert Mask(("final_conv",)).lowest_block(CNN) is None
    assert Rule.parse("norm:3,final_conv").mask(CNN).lowest_block(CNN) == 3


@pytest.mark.parametrize(
    ("rule", "glyph"),
    [
        ("none", "......"),
        ("stem,pos,final_norm", "......"),
        ("block:all", "######"),
        ("block:0,norm:2-3", "#.::.."),
        ("blocks.5.norm1.weight", ".....:"),
    ],
)
def test_the_glyph_shows_every_block(rule: str, glyph: str) -> None:
    assert Rule.parse(rule).mask(TINY).glyph(TINY) == glyph


@pytest.mark.parametrize(
    ("rule", "depth"),
    [
        ("text", None),
        ("logit_scale", None),
        ("logit_scale,text.attn:0", None),
        ("image.attn:2,text", 2),
        ("attn:last-1", 3),
        ("image.pos,text.attn:1", -1),
        ("fullft", -1),
    ],
)
def test_the_lowest_block_is_that_of_the_tower_of_the_images(rule: str, depth: int | None) -> None:
    assert Rule.parse(rule).mask(PAIR).lowest_block(PAIR) == depth


@pytest.mark.parametrize(
    ("rule", "glyph"),
    [
        ("none", "image .... text .."),
        ("logit_scale,singles", "image .... text .."),
        ("image.block:last-2,text.norm:1", "image ..## text .:"),
        ("fullft", "image #### text ##"),
    ],
)
def test_the_glyph_has_the_blocks_of_each_tower(rule: str, glyph: str) -> None:
    assert Rule.parse(rule).mask(PAIR).glyph(PAIR) == glyph
