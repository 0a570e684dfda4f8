"""Every mask space, those of plug-ins too, keeps the promises of its kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_units import towers, uneven, vit

from fairtune.adaptation import SPACES, Mask, MaskSpace, Rule, read_space
from fairtune.adaptation.switches import Switches
from fairtune.config import Choice, Config, Dimension, Float, Int
from fairtune.config.registry import written
from fairtune.errors import FairtuneError, ModelError
from fairtune.models.units import Units

# Fields without a default; a new member that needs none is picked up without an edit here.
FIELDS: dict[str, list[dict[str, Any]]] = {
    "topk": [{"count": 2}, {"share": 0.4}, {"share": 1.0}],
    "hybrid": [{"flips": 1}, {"flips": 3}],
}
TYPES: list[dict[str, Any]] = [
    {"types": ["norm", "attn", "mlp"]},
    {"types": ["attn+norm", "mlp"]},
    {"types": ["attn", "norm"], "always": ["pos", "norm1"]},
    {"types": ["block", "attn", "norm1"]},
    {"types": ["norm1+attn", "attn+norm2", "norm"]},
    {"types": ["norm", "norm1", "norm2"]},
]
MODELS = [vit(1), vit(2), vit(5), vit(12), towers(12, 6), towers(2, 3)]
SAID_BY_ALL = [name for name in SPACES if name != "topk"]
"""Spaces in which every type can be all, none, first-k or last-k."""


def spaces(name: str, types: Iterable[Mapping[str, Any]] = TYPES) -> Iterator[MaskSpace]:
    for fields, more in product(FIELDS.get(name, [{}]), types):
        yield read_space({name: {**fields, **more}})[1]


def value(dimension: Dimension) -> st.SearchStrategy[Any]:
    if isinstance(dimension, Choice):
        return st.sampled_from(dimension.options)
    if isinstance(dimension, Int):
        return st.integers(dimension.low, dimension.high)
    ends = st.sampled_from((dimension.low, dimension.high))
    return ends | st.floats(dimension.low, dimension.high)


def points(space: MaskSpace, units: Units) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({k: value(d) for k, d in space.dimensions(units).items()})


def grid(dimension: Dimension) -> list[Any]:
    """Values between which a space of three blocks can tell."""
    if isinstance(dimension, Choice):
        return list(dimension.options)
    assert isinstance(dimension, Float)
    step = (dimension.high - dimension.low) / 4
    return [dimension.low + step * i for i in range(5)]


@pytest.mark.parametrize("name", list(SPACES))
@given(data=st.data())
@settings(max_examples=40)
def test_every_point_is_a_mask_that_the_space_can_say(name: str, data: st.DataObject) -> None:
    space = data.draw(st.sampled_from(list(spaces(name))))
    units = data.draw(st.sampled_from(MODELS))
    point = data.draw(points(space, units))
    check(space, point, units)


@pytest.mark.parametrize("name", list(SPACES))
@given(data=st.data())
@settings(max_examples=15)
def test_blocks_without_a_type_are_no_trouble(name: str, data: st.DataObject) -> None:
    types = [{"types": ["expand", "conv"]}, {"types": ["block", "expand"], "always": ["stem"]}]
    space, units = data.draw(st.sampled_from(list(spaces(name, types)))), uneven()
    check(space, data.draw(points(space, units)), units)


def check(space: MaskSpace, point: Mapping[str, Any], units: Units) -> None:
    dimensions = space.dimensions(units)
    mask = space.decode(point, units)
    assert mask == Mask.of(mask.units, units)
    again = space.encode(mask, units)
    assert again is not None
    assert list(again) == list(dimensions)
    assert all(dimensions[key].contains(found) for key, found in again.items())
    assert space.decode(again, units) == mask
    extent = space.extent(units)
    assert extent.least <= mask.trainable(units) <= extent.most


@pytest.mark.parametrize("name", list(SPACES))
@given(chosen=st.sets(st.sampled_from(vit(3).names)))
@settings(max_examples=20)
def test_a_mask_is_said_exactly_or_not_at_all(name: str, chosen: set[str]) -> None:
    units = vit(3)
    mask = Mask.of(chosen, units)
    for space in spaces(name):
        point = space.encode(mask, units)
        assert point is None or space.decode(point, units) == mask


@pytest.mark.parametrize("name", SAID_BY_ALL)
@pytest.mark.parametrize("always", ["none", "pos,norm1:all"])
def test_the_corners_can_be_said(name: str, always: str) -> None:
    fixed = {} if always == "none" else {"always": ["pos", "norm1"]}
    kinds = ["norm", "attn", "mlp"]
    joined = [{"types": types, **fixed} for types in (kinds, ["attn+norm", "mlp"])]
    for space, units in product(spaces(name, joined), MODELS):
        here = space.types  # type: ignore[attr-defined]
        corners = ["none", *(f"{kind}:all" for kind in here), f"{'+'.join(here)}:all"]
        for k in range(1, min(map(units.below, units.paths))):
            corners += [f"{'+'.join(here)}:first-{k}", f"{'+'.join(here)}:last-{k}"]
            corners.append(f"{here[0]}:last-{k},{here[1]}:first-{k}")
        for corner in corners:
            rules = [r for r in (corner, always) if r != "none"]
            mask = Rule.parse(",".join(rules) or "none").mask(units)
            point = space.encode(mask, units)
            assert point is not None, (corner, space)
            assert space.decode(point, units) == mask


@pytest.mark.parametrize("name", list(SPACES))
def test_dimensions_stay_as_they_are(name: str) -> None:
    for space, units in product(spaces(name), MODELS):
        first = space.dimensions(units)
        same = Units.from_json(units.to_json())
        again = read_space(written(space))[1].dimensions(same)  # type: ignore[arg-type]
        assert first == again
        assert list(first) == list(again)
        assert first


@pytest.mark.parametrize("name", list(SPACES))
@pytest.mark.parametrize(
    "types", [["norm", "attn"], ["norm1+attn", "norm"]], ids=["apart", "overlap"]
)
def test_the_points_and_the_masks_it_can_say_and_their_number_agree(
    name: str, types: list[str]
) -> None:
    units = vit(3)
    every = list(Switches.of(["norm1", "norm2", "attn"], [], units).members)
    fine = Switches.of(["norm1", "norm2", "attn"], [], units)
    masks = [fine.mask(on) for k in range(len(every) + 1) for on in combinations(every, k)]
    small = [{"types": types}]
    for space in [s for s in spaces(name, small) if getattr(s, "flips", 0) < 2]:
        dimensions = space.dimensions(units)
        values = {key: grid(d) for key, d in dimensions.items()}
        if name == "topk":  # scores are only compared with each other and with 0
            values = {key: [-0.5, 0.2, 0.6] for key in dimensions}
        said = {m for m in masks if space.encode(m, units) is not None}
        met = {
            space.decode(dict(zip(values, point, strict=True)), units)
            for point in product(*values.values())
        }
        assert met == said
        extent, sizes = space.extent(units), [m.trainable(units) for m in met]
        assert extent.exact == (types == ["norm", "attn"])
        if extent.exact:
            assert (extent.masks, extent.least, extent.most) == (len(met), min(sizes), max(sizes))
        assert extent.masks >= len(met)
        assert extent.least <= min(sizes)
        assert extent.most >= max(sizes)


@pytest.mark.parametrize("name", list(SPACES))
def test_a_space_survives_writing_and_reading(name: str) -> None:
    for space in spaces(name):
        assert isinstance(space, Config)
        assert SPACES.parse(written(space)) == space


@pytest.mark.parametrize("name", list(SPACES))
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"types": []}, "types"),
        ({"types": ["attn", "norm", "attn"]}, "more than once"),
        ({"alway": ["pos"]}, "alway"),
    ],
)
def test_a_wrong_declaration_is_refused(name: str, fields: dict[str, Any], message: str) -> None:
    known = FIELDS.get(name, [{}])[0]
    with pytest.raises(FairtuneError, match=message):
        read_space({name: {**known, **fields}})


@pytest.mark.parametrize("name", list(SPACES))
@pytest.mark.parametrize(
    "fields", [{"types": ["attention"]}, {"always": ["possition"]}, {"types": ["head"]}]
)
def test_types_of_another_model_are_refused(name: str, fields: dict[str, Any]) -> None:
    (space, *_) = spaces(name, [fields])
    for call in (space.dimensions, space.extent):
        with pytest.raises(ModelError, match="no unit type"):
            call(vit(3))


@pytest.mark.parametrize("name", ["bits", "topk"])
@pytest.mark.parametrize(
    ("words", "blocks"), [("last-2", {3, 4}), ("0+3-4", {0, 3, 4}), ("all", set(range(5)))]
)
@given(data=st.data())
def test_only_the_blocks_that_are_named_have_switches(
    name: str, words: str, blocks: set[int], data: st.DataObject
) -> None:
    units = vit(5)
    fields = {**FIELDS.get(name, [{}])[-1], "types": ["norm", "mlp"], "blocks": words}
    space = read_space({name: fields})[1]
    assert {int(key.rpartition(".")[2]) for key in space.dimensions(units)} == blocks
    mask = space.decode(data.draw(points(space, units)), units)
    trained = {unit.split(".")[1] for unit in mask.units}
    assert trained <= {str(block) for block in blocks}
    assert space.decode(space.encode(mask, units) or {}, units) == mask
    assert space.extent(units).masks == 2 ** (2 * len(blocks))
    elsewhere = Rule.parse("mlp:1").mask(units)
    assert (space.encode(elsewhere, units) is None) == (1 not in blocks)


@pytest.mark.parametrize("name", ["bits", "topk"])
def test_blocks_that_are_none_or_not_the_models_are_refused(name: str) -> None:
    fields = FIELDS.get(name, [{}])[0]
    for words in ("last3", "none", "", "3-1"):
        with pytest.raises(FairtuneError, match="not blocks"):
            read_space({name: {**fields, "blocks": words}})
    space = read_space({name: {**fields, "blocks": "last-3"}})[1]
    for call in (space.dimensions, space.extent):
        with pytest.raises(ModelError, match="beyond the network's 2 blocks"):
            call(vit(2))
