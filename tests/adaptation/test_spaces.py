"""What each mask space means, by hand."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit_units import towers, uneven, vit

from fairtune.adaptation import Mask, MaskSpace, Rule, read_space
from fairtune.adaptation.extent import fitting, near_edges
from fairtune.adaptation.spans import block_at, blocks_below, middle_of
from fairtune.adaptation.switches import Switches
from fairtune.errors import ConfigError, FairtuneError, ModelError

TWELVE = vit(12)


def space(written: Any) -> MaskSpace:
    return read_space(written)[1]


def mask(rule: str, depth: int = 12) -> Mask:
    return Rule.parse(rule).mask(vit(depth))


def said(written: Any, rule: str, depth: int = 12) -> dict[str, Any] | None:
    return space(written).encode(mask(rule, depth), vit(depth))


def test_a_name_alone_switches_norm_attn_and_mlp() -> None:
    for name in ("bits", "cutoff", "interval", "gate", "hybrid"):
        assert space(name).types == ("norm", "attn", "mlp")  # type: ignore[attr-defined]
    assert space("auto_peft1") == space("bits")
    assert len(space("cutoff").dimensions(TWELVE)) == 6


def test_a_cut_off_by_hand() -> None:
    assert said({"cutoff": {"types": ["attn", "norm"]}}, "attn:last-3,norm:first-6") == {
        "attn.cut": 0.75,
        "attn.side": "last",
        "norm.cut": 0.5,
        "norm.side": "first",
    }
    assert said({"cutoff": {"types": ["attn"]}}, "attn:all") == {
        "attn.cut": 0.0,
        "attn.side": "last",
    }
    assert said({"cutoff": {"types": ["attn"]}}, "none") == {"attn.cut": 1.0, "attn.side": "last"}
    assert said("cutoff", "attn:3-5") is None
    assert said("cutoff", "pos") is None
    assert said({"cutoff": {"always": ["pos"]}}, "attn:all") is None


@given(st.floats(0, 1), st.integers(1, 48))
def test_a_block_lies_below_a_share_when_its_middle_does(share: float, depth: int) -> None:
    below = blocks_below(share, depth)
    assert 0 <= below <= depth
    assert all(middle_of(block, depth) <= share + 1e-12 for block in range(below))
    assert all(middle_of(block, depth) >= share - 1e-12 for block in range(below, depth))


@given(st.integers(1, 100))
def test_a_share_at_a_border_or_in_a_middle_is_read_back(depth: int) -> None:
    assert [blocks_below(k / depth, depth) for k in range(depth + 1)] == list(range(depth + 1))
    assert [block_at(middle_of(k, depth), depth) for k in range(depth)] == list(range(depth))
    assert (block_at(0.0, depth), block_at(1.0, depth)) == (0, depth - 1)


def test_every_span_of_a_cut_off_is_equally_likely() -> None:
    asked, units, steps = space({"cutoff": {"types": ["attn"]}}), vit(3), 60
    shares = [(i + 0.5) / steps for i in range(steps)]
    met = Counter(
        asked.decode({"attn.cut": cut, "attn.side": side}, units)
        for cut in shares
        for side in ("first", "last")
    )
    assert set(met.values()) == {2 * steps // 6}


def test_an_interval_by_hand() -> None:
    one = {"interval": {"types": ["attn"]}}
    assert said(one, "attn:3-5") == {"attn.lo": 0.25, "attn.hi": 0.5}
    assert said(one, "attn:last-3") == {"attn.lo": 0.75, "attn.hi": 1.0}
    assert said(one, "attn:0+2") is None
    back = space(one).decode({"attn.lo": 0.5, "attn.hi": 0.25}, TWELVE)
    assert back == mask("attn:3-5")


def test_every_interval_is_equally_likely() -> None:
    asked, units, steps = space({"interval": {"types": ["attn"]}}), vit(3), 20
    shares = [(i + 0.5) / steps for i in range(steps)]
    met = Counter(
        asked.decode({"attn.lo": lo, "attn.hi": hi}, units) for lo in shares for hi in shares
    )
    none = met.pop(mask("none", 3))
    assert none == 4 * (steps // 4) ** 2
    assert set(met.values()) == {2 * (steps // 4) ** 2}
    assert len(met) == 6


@pytest.mark.parametrize("depth", [1, 2, 3, 7, 12, 24, 48])
def test_an_interval_that_was_said_is_read_back(depth: int) -> None:
    asked, units = space({"interval": {"types": ["mlp"]}}), vit(depth)
    for rule in ("mlp:all", "mlp:first-1", "mlp:last-1", f"mlp:{depth // 2}"):
        point = asked.encode(mask(rule, depth), units)
        assert point is not None
        assert asked.decode(point, units) == mask(rule, depth)


def test_a_gate_by_hand() -> None:
    one = space({"gate": {"types": ["attn"]}})

    def open_(offset: float, slope: float) -> Mask:
        return one.decode({"attn.offset": offset, "attn.slope": slope}, TWELVE)

    assert open_(0.0, 1.0) == mask("attn:last-6")
    assert open_(0.0, -0.1) == mask("attn:first-6")
    assert open_(-0.5, 1.0) == mask("attn:last-3")
    assert open_(0.3, 0.3) == mask("attn:all")
    assert open_(0.0, 0.0) == mask("none")
    assert said({"gate": {"types": ["attn"]}}, "attn:last-3") == {
        "attn.offset": -0.25,
        "attn.slope": 0.5,
    }


@given(st.data())
def test_a_gate_and_a_cut_off_say_the_same_masks(data: st.DataObject) -> None:
    point = {
        f"{kind}.{name}": data.draw(st.floats(-1, 1))
        for kind in ("norm", "attn", "mlp")
        for name in ("offset", "slope")
    }
    made = space("gate").decode(point, TWELVE)
    assert space("cutoff").encode(made, TWELVE) is not None


@pytest.mark.parametrize("name", ["cutoff", "interval", "gate", "hybrid"])
def test_a_point_means_the_same_in_a_model_of_another_depth(name: str) -> None:
    asked = space(name)
    point = asked.encode(mask("attn:last-6,norm:first-3"), TWELVE)
    assert point is not None
    for depth in (4, 8, 24):
        rule = f"attn:last-{depth // 2},norm:first-{depth // 4}"
        assert asked.decode(point, vit(depth)) == mask(rule, depth)


def test_flips_by_hand() -> None:
    asked = {"hybrid": {"types": ["attn", "mlp"], "flips": 2}}
    assert said(asked, "attn:last-3,attn:0") == {
        "attn.cut": 0.75,
        "attn.side": "last",
        "mlp.cut": 1.0,
        "mlp.side": "last",
        "flip.0.type": "attn",
        "flip.0.at": 0.5 / 12,
        "flip.1.type": "none",
        "flip.1.at": 0.5,
    }
    assert said(asked, "attn:2-9,mlp:all") is not None
    assert said(asked, "attn:3-8,mlp:all") is None


def test_where_types_overlap_a_mask_is_said_with_the_fewest_flips() -> None:
    # Of norm in one block, `norm` alone or `norm1` and `norm2` together can be flipped on.
    asked = {"hybrid": {"types": ["norm1", "norm", "norm2"], "flips": 2}}
    point = said(asked, "norm:1", 3)
    assert point is not None
    assert [point[f"flip.{i}.type"] for i in range(2)] == ["norm", "none"]
    assert space(asked).decode(point, vit(3)) == mask("norm:1", 3)
    ends = said({"cutoff": {"types": ["norm1", "norm", "norm2"]}}, "norm1:last-2,norm2:last-1", 3)
    assert ends is not None
    assert said({"cutoff": {"types": ["norm1", "norm"]}}, "norm1:last-2,norm2:last-1", 3)
    assert said({"cutoff": {"types": ["norm1", "norm"]}}, "norm1:last-1,norm2:last-2", 3) is None


def test_a_switch_that_two_flips_name_is_flipped_once() -> None:
    asked = space({"hybrid": {"types": ["attn"], "flips": 2}})
    point = {"attn.cut": 1.0, "attn.side": "last"}
    twice = {f"flip.{i}.{k}": v for i in range(2) for k, v in (("type", "attn"), ("at", 0.3))}
    assert asked.decode(point | twice, TWELVE) == mask("attn:3")


@pytest.mark.parametrize("live", range(6))
def test_settings_near_a_span_are_counted_as_by_hand(live: int) -> None:
    spans = [range(k) for k in range(live + 1)] + [range(k, live) for k in range(live + 1)]
    counts: Counter[int] = Counter()
    for setting in range(2**live):
        on = {i for i in range(live) if setting >> i & 1}
        counts[min(len(on ^ set(span)) for span in spans)] += 1
    assert near_edges(live, 2) == [counts[0], counts[1], counts[2]]


def scores(depth: int, **given: float) -> dict[str, float]:
    """Every score is -1 but those given: `attn_2=0.5`."""
    kinds = ("norm", "attn", "mlp")
    made = {f"{kind}.{block}": -1.0 for block in range(depth) for kind in kinds}
    return made | {name.replace("_", "."): value for name, value in given.items()}


def test_the_highest_scores_are_switched_on() -> None:
    asked = space({"topk": {"count": 3}})
    point = scores(3, attn_2=0.9, norm_0=-0.5, mlp_1=-0.2, attn_1=-0.9)
    assert asked.decode(point, vit(3)) == mask("attn:2,norm:0,mlp:1", 3)
    assert asked.decode(scores(3), vit(3)) == mask("norm+attn+mlp:0", 3)


def test_a_count_says_masks_of_that_many_switches_only() -> None:
    assert said({"topk": {"count": 3}}, "attn:last-3") is not None
    assert said({"topk": {"count": 3}}, "attn:last-2") is None
    assert said({"topk": {"count": 3}}, "attn:last-4") is None
    assert said({"topk": {"count": 3}}, "none") is None
    # Where types overlap, a switch more or less may not matter.
    overlap = {"types": ["block", "attn"]}
    assert said({"topk": {"count": 1, **overlap}}, "block:0") is not None
    assert said({"topk": {"count": 2, **overlap}}, "block:0") is not None
    assert said({"topk": {"count": 3, **overlap}}, "block:0") is None


def test_a_budget_takes_by_score_what_still_fits() -> None:
    # 3 blocks of norm 4, attn 12, mlp 24, and 10 outside: 130 parameters.
    asked, units = space({"topk": {"share": 40 / 130}}), vit(3)
    point = scores(3, mlp_0=0.9, mlp_1=0.8, attn_2=0.7, norm_1=0.6, norm_0=0.5)
    made = asked.decode(point, units)
    assert made == mask("mlp:0,attn:2,norm:1", 3)
    assert made.trainable(units) == 40
    assert asked.decode(scores(3), units) == mask("none", 3)
    assert asked.encode(mask("mlp:all", 3), units) is None
    assert asked.encode(mask("norm:all,mlp:1", 3), units) is not None


def test_what_always_trains_counts_against_the_budget() -> None:
    asked = space({"topk": {"share": 30 / 130, "always": ["pos"]}})
    point = scores(3, mlp_0=0.9, attn_2=0.7)
    assert asked.decode(point, vit(3)) == mask("attn:2,pos", 3)
    extent = asked.extent(vit(3))
    assert (extent.least, extent.most) == (10, 30)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "either count or share"),
        ({"count": 2, "share": 0.5}, "either count or share"),
        ({"count": 0}, "count"),
        ({"share": 0}, "share"),
        ({"share": 5}, "share"),
    ],
)
def test_topk_takes_one_limit(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(FairtuneError, match=words):
        space({"topk": fields})


def test_a_limit_that_the_model_cannot_keep_is_refused() -> None:
    with pytest.raises(ModelError, match="more switches than there are"):
        space({"topk": {"count": 10}}).dimensions(vit(3))
    with pytest.raises(ModelError, match="no switch fits") as caught:
        space({"topk": {"share": 0.02}}).dimensions(vit(3))
    assert "0.031 of the 130 parameters" in str(caught.value)
    assert len(space({"topk": {"count": 9}}).dimensions(vit(3))) == 9


def test_sets_within_a_budget_are_counted_or_given_up() -> None:
    assert fitting([1, 2, 2], 3) == (6, 3)
    assert fitting([2**i for i in range(30)], 2**30, limit=100) is None
    wide = space({"topk": {"share": 0.5}})
    assert wide.extent(TWELVE).exact


def test_extents_of_a_vit_of_twelve_blocks() -> None:
    counts = {
        "bits": 2**36,
        "cutoff": 24**3,
        "gate": 24**3,
        "interval": 79**3,
        "topk": math.comb(36, 4),
    }
    for name, count in counts.items():
        asked = space({name: {"count": 4} if name == "topk" else {}})
        assert asked.extent(TWELVE).masks == count
    whole = space("cutoff").extent(TWELVE)
    assert (whole.least, whole.most) == (0, 12 * 40)


def test_a_block_without_a_type_gives_no_mask_of_its_own() -> None:
    units = uneven()
    assert space({"bits": {"types": ["expand"]}}).extent(units).masks == 4
    assert space({"cutoff": {"types": ["expand"]}}).extent(units).masks == 4
    assert space({"topk": {"types": ["expand"], "count": 2}}).extent(units).masks == 4


def test_the_fewest_switches_that_hold_some_units() -> None:
    units = vit(2)
    switches = Switches.of(["norm1+attn", "attn+norm2", "norm1+norm2", "mlp"], [], units)
    wanted = mask("norm:0,attn:0,mlp:1", 2).units
    found = switches.cover(wanted, switches.members)
    assert found is not None
    assert len(found) == 3
    assert set(wanted) <= switches.together(found)
    assert switches.cover(["pos"], switches.members) is None
    assert switches.cover([], switches.members) == ()


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("cutof", "did you mean 'cutoff'"),
        ("auto_pft1", "did you mean 'auto_peft1'"),
        ({"cutoff": {}, "gate": {}}, "is written NAME or"),
        ([1], "is written NAME or"),
        ({"hybrid": {"flips": 0}}, "flips"),
        ({"hybrid": {"flips": True}}, "flips"),
    ],
)
def test_what_is_no_space_is_refused(written: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_space(written)


def test_types_that_name_no_tower_are_one_of_each() -> None:
    units = towers(3, 2)
    names = list(space({"bits": {"types": ["norm", "attn+mlp"]}}).dimensions(units))
    assert names == [
        f"{kind}.{depth}"
        for depth in range(3)
        for kind in ("image.norm", "text.norm", "image.attn+image.mlp", "text.attn+text.mlp")
        if depth < 2 or kind.startswith("image")
    ]
    one = space({"cutoff": {"types": ["text.attn"]}})
    assert list(one.dimensions(units)) == ["text.attn.cut", "text.attn.side"]


def test_a_share_is_of_the_depth_of_its_tower() -> None:
    units = towers(12, 6)
    cutoff = space({"cutoff": {"types": ["attn"]}})
    point: dict[str, Any] = {}
    for tower in units.towers:
        point |= {f"{tower}.attn.cut": 0.5, f"{tower}.attn.side": "last"}
    assert cutoff.decode(point, units) == Rule.parse("image.attn:6-11,text.attn:3-5").mask(units)
    flips = space({"hybrid": {"types": ["attn"], "flips": 1}})
    flipped = flips.decode({**point, "flip.0.type": "text.attn", "flip.0.at": 0.1}, units)
    assert flipped == Rule.parse("image.attn:6-11,text.attn:0+3-5").mask(units)


def test_one_switch_of_two_towers_turns_on_the_blocks_of_its_number() -> None:
    units = towers(3, 2)
    bits = space({"bits": {"types": ["image.attn+text.attn"]}})
    for depth, rule in enumerate(("attn:0", "attn:1", "image.attn:2")):
        point = {name: name.endswith(f".{depth}") for name in bits.dimensions(units)}
        assert bits.decode(point, units) == Rule.parse(rule).mask(units)
    assert bits.extent(units).masks == 2**3


def test_blocks_with_switches_are_counted_in_the_tower() -> None:
    units = towers(12, 6)
    bits = space({"bits": {"types": ["attn"], "blocks": "last-2", "always": ["pos"]}})
    names = [f"image.attn.{d}" for d in (10, 11)] + [f"text.attn.{d}" for d in (4, 5)]
    assert set(bits.dimensions(units)) == set(names)
    assert set(bits.decode(dict.fromkeys(names, False), units).units) == {"image.pos", "text.pos"}
    beyond = space({"bits": {"types": ["image.attn", "text.attn"], "blocks": "last-7"}})
    with pytest.raises(ModelError, match="beyond the text tower's 6 blocks"):
        beyond.dimensions(units)


def test_a_type_of_every_tower_and_of_one_is_refused() -> None:
    bits = space({"bits": {"types": ["attn", "text.attn"]}})
    with pytest.raises(ModelError, match="more than once"):
        bits.dimensions(towers(2, 2))
