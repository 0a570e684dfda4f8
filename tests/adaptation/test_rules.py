from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit_units import towers

from fairtune.adaptation import NAMED_RULES, Mask, Rule
from fairtune.adaptation.rules import Depths, Term
from fairtune.config import yaml12
from fairtune.errors import ConfigError, ModelError
from fairtune.models import load, names
from fairtune.models.backbone import describe
from fairtune.models.units import Units

TINY = describe(load("test_vit"))
PAIR = towers(12, 6)
"""Tower `image` of 12 blocks, `text` of 6, and a `logit_scale` of neither."""
TYPES = ("attn", "norm", "mlp", "block", "bias", "attn.qkv.weight", "mlp.fc1", "text.norm")

ranges = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda p: (min(p), max(p)))
depths = st.one_of(
    st.sampled_from(["all", "none"]).map(Depths),
    ranges.map(lambda p: Depths("range", *p)),
    st.tuples(st.sampled_from(["first", "last"]), st.integers(0, 40)).map(lambda p: Depths(*p)),
)
terms = st.one_of(
    st.builds(
        Term,
        st.lists(st.sampled_from(TYPES), min_size=1, max_size=3).map(tuple),
        st.lists(depths, min_size=1, max_size=3).map(tuple),
    ),
    st.sampled_from(["stem", "pos", "singles", "blocks.3.norm1.weight", "text.singles"]).map(
        lambda unit: Term((unit,), ())
    ),
)
rules = st.lists(terms, max_size=4).map(lambda found: Rule(tuple(found)))


def mask(rule: str, units: Units = TINY) -> Mask:
    return Rule.parse(rule).mask(units)


def blocks_of(found: Mask) -> set[int]:
    depths = {TINY.depth_of(name) for name in found.units}
    return {depth for depth in depths if depth is not None}


@given(rules)
def test_a_printed_rule_is_read_as_the_same_rule(rule: Rule) -> None:
    assert Rule.parse(str(rule)) == rule


@given(rules)
def test_a_printed_rule_is_plain_text_in_yaml(rule: Rule) -> None:
    assert yaml12.loads(f"mask: {rule}").data == {"mask": str(rule)}


@given(st.text(alphabet="attnorm:,+-0139 ", max_size=20))
def test_any_text_is_a_rule_or_a_config_error(text: str) -> None:
    try:
        rule = Rule.parse(text)
    except ConfigError:
        return
    assert Rule.parse(str(rule)) == rule


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [
        ("all", {0, 1, 2, 3, 4, 5}),
        ("none", set()),
        ("2", {2}),
        ("2-4", {2, 3, 4}),
        ("first-2", {0, 1}),
        ("last-2", {4, 5}),
        ("last-0", set()),
        ("first-6", {0, 1, 2, 3, 4, 5}),
        ("0+5", {0, 5}),
        ("first-1+2-3+last-1", {0, 2, 3, 5}),
    ],
)
def test_a_depth_means_blocks(depth: str, blocks: set[int]) -> None:
    found = mask(f"attn:{depth}")
    assert blocks_of(found) == blocks
    assert len(found.units) == 4 * len(blocks)


def test_terms_are_united() -> None:
    assert mask("attn:1,norm:1") == mask("attn+norm:1")
    assert mask("attn:1, attn:1-2") == mask("attn:1-2")


def test_a_term_may_be_a_single_unit_or_a_tensor() -> None:
    assert mask("stem,final_norm,blocks.3.norm1.weight").units == (
        "blocks.3.norm1.weight",
        "final_norm",
        "stem",
    )


def test_singles_are_all_units_outside_the_blocks() -> None:
    assert set(mask("singles").units) == {"stem", "pos", "final_norm"}
    assert mask("singles,pos") == mask("stem,pos,final_norm")


@pytest.mark.parametrize("name", names())
def test_fullft_is_everything_of_every_shipped_model(name: str) -> None:
    units = describe(load(name))
    assert set(mask("fullft", units).units) == set(units.names)
    assert mask("fullft", units).share(units) == 1.0


@pytest.mark.parametrize("name", NAMED_RULES)
def test_a_named_rule_means_what_it_stands_for(name: str) -> None:
    assert mask(name) == mask(NAMED_RULES[name])
    assert mask(f" {name} ") == mask(name)


def test_the_named_rules_by_hand() -> None:
    assert mask("linear_readout").units == ()
    assert all(name.endswith(".bias") for name in mask("bitfit").units)
    assert len(mask("bitfit").units) == 6 * 6


def test_an_all_none_rule_is_the_empty_mask() -> None:
    assert mask("none") == mask("attn:none") == Mask(())


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("", "empty mask rule"),
        ("attn:", "not a depth"),
        ("attn:some", "allowed: all, none, i, i-j, first-k, last-k"),
        ("attn:3-1", "runs upwards"),
        ("attn:1,", "TYPE:DEPTH or UNIT"),
        ("+attn:1", "TYPE:DEPTH or UNIT"),
        (":1", "TYPE:DEPTH or UNIT"),
        ("attn+norm", r"attn\+norm:all"),
        ("singles:all", "no depth"),
        ("attn+singles:all", "a term of its own"),
        ("attn:-1", "not a depth"),
        ("attn:1\n", "not a depth"),
    ],
)
def test_what_is_no_rule_is_a_config_error_that_shows_it(rule: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Rule.parse(rule)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("attention:all", "no unit type of that name"),
        ("attnn:all", "did you mean 'attn'"),
        ("attn", "write attn:all"),
        ("stemm", "did you mean 'stem'"),
        ("head", "the head always trains"),
        ("attn:6", "6 blocks"),
        ("attn:4-9", "blocks 0 to 5"),
        ("attn:last-7", "reaches beyond"),
        ("attn:first-7", "reaches beyond"),
    ],
)
def test_a_rule_of_another_model_is_a_model_error(rule: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        mask(rule)


@given(rules)
def test_a_rule_fits_the_model_or_is_a_model_error(rule: Rule) -> None:
    try:
        found = rule.mask(TINY)
    except ModelError:
        return
    assert set(found.units) <= set(TINY.names)


def per_tower(found: Mask) -> dict[str, set[int | None]]:
    """Return the blocks of each tower that a mask has something of; None stands for outside."""
    return {
        tower: {PAIR.depth_of(u) for u in found.units if PAIR.tower_of(u) == tower}
        for tower in PAIR.towers
    }


@pytest.mark.parametrize(
    ("rule", "image", "text"),
    [
        ("image.attn:last-3", {9, 10, 11}, set()),
        ("text.norm:all", set(), {0, 1, 2, 3, 4, 5}),
        ("attn:last-3", {9, 10, 11}, {3, 4, 5}),
        ("attn+norm:last-1", {11}, {5}),
        ("image.attn+text.mlp:first-2", {0, 1}, {0, 1}),
        ("image.attn:11,text.attn:5", {11}, {5}),
        ("pos", {None}, {None}),
        ("text.pos", set(), {None}),
        ("text.singles", set(), {None}),
        ("text", set(), {None, 0, 1, 2, 3, 4, 5}),
        ("logit_scale", set(), set()),
    ],
)
def test_a_type_is_of_one_tower_or_of_each_by_its_own_depth(
    rule: str, image: set[int | None], text: set[int | None]
) -> None:
    assert per_tower(mask(rule, PAIR)) == {"image": image, "text": text}


def test_named_rules_of_several_towers() -> None:
    assert set(mask("fullft", PAIR).units) == set(PAIR.names)
    assert mask("linear_readout", PAIR).units == ()
    assert mask("image,text,logit_scale", PAIR) == mask("fullft", PAIR)
    assert mask("text", PAIR) == mask("text.block:all,text.singles", PAIR)
    assert mask("singles", PAIR) == mask("image.singles,text.singles,logit_scale", PAIR)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("txt.attn:all", "did you mean 'text.attn'"),
        ("text.atn:all", "did you mean 'text.attn'"),
        ("atttn:all", "did you mean 'attn'"),
        ("imagee", "did you mean 'image'"),
        ("text.poss", "did you mean 'text.pos'"),
        ("image.attn", "write image.attn:all"),
        ("attn", "write attn:all"),
        ("text.attn:6", "beyond the text tower's 6 blocks"),
        ("image.attn:12", "beyond the image tower's 12 blocks"),
        ("attn:7", "beyond the text tower's 6 blocks"),
        ("text.head", "does not have"),
    ],
)
def test_a_rule_of_other_towers_is_a_model_error(rule: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        mask(rule, PAIR)


@given(rules)
def test_a_rule_fits_the_towers_or_is_a_model_error(rule: Rule) -> None:
    try:
        found = rule.mask(PAIR)
    except ModelError:
        return
    assert set(found.units) <= set(PAIR.names)
    assert Rule.parse(str(rule)).mask(PAIR) == found


@given(rules)
def test_a_rule_within_a_tower_is_of_it_alone(rule: Rule) -> None:
    plain = Rule(tuple(t for t in rule.terms if "text" not in str(t)))
    within = plain.within("text")
    assert Rule.parse(str(within)) == within
    try:
        found = within.mask(PAIR)
    except ModelError:
        return
    assert all(PAIR.tower_of(unit) == "text" for unit in found.units)
