from __future__ import annotations

import json

import pytest

from fairtune.errors import ModelError, Problems
from fairtune.models import Units, load, names
from fairtune.models.backbone import build, describe
from fairtune.models.partition import partition
from fairtune.models.spec import UnitNames

TENSORS = [
    ("cls", 4),
    ("stem.weight", 12),
    ("blocks.0.norm1.weight", 4),
    ("blocks.0.norm1.bias", 4),
    ("blocks.0.attn.qkv.weight", 48),
    ("blocks.1.norm1.weight", 4),
    ("blocks.1.norm1.bias", 4),
    ("blocks.1.attn.norm.weight", 2),
    ("norm.weight", 4),
]
SINGLES = {"first": ("cls", "stem"), "last": ("norm",)}


def declared(
    types: dict[str, tuple[str, ...]], singles: dict[str, tuple[str, ...]] | None = None
) -> UnitNames:
    return UnitNames(types=types, singles=SINGLES if singles is None else singles)


@pytest.fixture(scope="module")
def dinov2() -> Units:
    return describe(load("vit_small_dinov2"))


@pytest.mark.parametrize("name", names())
def test_units_partition_the_parameters(name: str) -> None:
    spec = load(name)
    units = describe(spec)
    net = spec.outline(spec.side())
    expected = {n: p.numel() for n, p in net.named_parameters()}
    held = [t for unit in units.names for t in units.parameters[unit]]
    assert sorted(held) == sorted(expected)
    for unit in units.names:
        assert units.sizes[unit] == sum(expected[t] for t in units.parameters[unit])
    assert units.total == sum(expected.values())


@pytest.mark.parametrize("name", names())
def test_inside_blocks_a_unit_is_one_tensor_and_block_is_all_of_them(name: str) -> None:
    units = describe(load(name))
    inside = [u for u in units.names if units.depth_of(u) is not None]
    assert all(units.parameters[u] == (u,) for u in inside)
    assert sorted(u for by in units.by_depth("block") for u in by) == sorted(inside)
    assert set(units.singles) == set(units.names) - set(inside)
    assert "head" not in units.names


@pytest.mark.parametrize("name", names())
def test_json_round_trip_keeps_everything(name: str) -> None:
    units = describe(load(name))
    back = Units.from_json(json.loads(json.dumps(units.to_json())))
    assert back == units
    assert back.hash == units.hash
    assert hash(back) == hash(units)


def test_unions_and_overlaps(dinov2: Units) -> None:
    for depth in range(dinov2.depth):
        norm1, norm2 = dinov2.of("norm1", depth), dinov2.of("norm2", depth)
        assert dinov2.of("norm", depth) == norm1 + norm2
        assert set(dinov2.of("norm1+norm2", depth)) == set(dinov2.of("norm", depth))
        everything = dinov2.of("norm + attn + mlp + scale", depth)
        assert everything == dinov2.of("block", depth)
        assert set(dinov2.of("bias", depth)) & set(norm1) == {f"blocks.{depth}.norm1.bias"}


def test_a_type_may_be_the_end_of_a_units_name(dinov2: Units) -> None:
    assert dinov2.of("attn.qkv.weight", 7) == ("blocks.7.attn.qkv.weight",)
    assert dinov2.of("mlp.fc1", 0) == ("blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc1.bias")


def test_units_stand_in_the_order_of_the_network(dinov2: Units) -> None:
    depths = [dinov2.depth_of(u) for u in dinov2.names if dinov2.depth_of(u) is not None]
    assert depths == sorted(depths)  # type: ignore[type-var]
    assert dinov2.names[:2] == ("stem", "pos")
    assert dinov2.names[-1] == "final_norm"
    assert dinov2.parameters["stem"][0] == "cls_token"
    assert dinov2.tensors(["pos", "blocks.0.ls1.gamma", "stem"])[-1] == "blocks.0.ls1.gamma"


def test_the_hash_does_not_depend_on_the_image_size_but_on_the_types() -> None:
    spec = load("test_vit")
    small, large = describe(spec, 64), describe(spec, 160)
    assert small.sizes["pos"] < large.sizes["pos"]
    assert small.hash == large.hash
    fewer = {k: v for k, v in spec.units.types.items() if k != "bias"}
    other = spec.model_copy(update={"units": declared(fewer, spec.units.singles)})
    assert describe(other).hash != small.hash


def test_faults_name_what_is_known(dinov2: Units) -> None:
    with pytest.raises(ModelError, match="did you mean 'norm'"):
        dinov2.of("norm3", 0)
    with pytest.raises(ModelError, match="0 to 11"):
        dinov2.of("norm", 12)
    with pytest.raises(ModelError, match="no unit of that name"):
        dinov2.depth_of("blocks.12.norm1.weight")
    with pytest.raises(ModelError, match="no unit of that name"):
        dinov2.tensors(["stem", "head"])
    with pytest.raises(ModelError, match="no unit type"):
        dinov2.of("norm+", 0)


def test_an_entry_matches_whole_name_parts_anywhere_below_the_block() -> None:
    units = partition(declared({"norm": ("norm",), "norm1": ("norm1",)}), TENSORS)
    assert units.types["norm"] == ((), ("blocks.1.attn.norm.weight",))
    assert units.of("norm1", 0) == ("blocks.0.norm1.weight", "blocks.0.norm1.bias")
    assert units.parameters["first"] == ("cls", "stem.weight")
    assert units.size(["first", "blocks.1.attn.norm.weight"]) == 18


def test_an_entry_that_names_an_earlier_type_means_that_type() -> None:
    types = {"qkv": ("attn.qkv",), "both": ("qkv", "norm1.bias")}
    units = partition(declared(types), TENSORS)
    assert units.of("both", 0) == ("blocks.0.norm1.bias", "blocks.0.attn.qkv.weight")


@pytest.mark.parametrize(
    ("names_", "message"),
    [
        (declared({"a": ("*",)}, {"first": ("cls", "stem")}), "'norm.weight' is in 0 units"),
        (declared({"a": ("*",)}, SINGLES | {"more": ("stem.weight",)}), "is in 2 units"),
        (declared({"a": ("mlp",)}), "fits no tensor"),
        (declared({"a": ("*",)}, SINGLES | {"more": ("reg_token",)}), "fits no tensor"),
        (UnitNames(blocks="layers", types={"a": ("*",)}, singles=SINGLES), "no blocks"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(names_: UnitNames, message: str) -> None:
    with pytest.raises((ModelError, Problems)) as caught:
        partition(names_, TENSORS)
    assert message in str(caught.value)


def test_blocks_must_be_numbered_from_zero() -> None:
    tensors = [(n.replace("blocks.0", "blocks.2"), s) for n, s in TENSORS]
    with pytest.raises(ModelError, match="not numbered from 0"):
        partition(declared({"a": ("*",)}), tensors)


def test_units_and_backbone_agree_on_names() -> None:
    spec = load("test_vit")
    assert set(build(spec, None, None).tensors()) == set(
        describe(spec).tensors(describe(spec).names)
    )
