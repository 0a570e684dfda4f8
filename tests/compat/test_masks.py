from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_language import network_spec

from fairtune.adaptation import ALIASES, Mask, Rule
from fairtune.compat.masks import read_mask, write_mask
from fairtune.errors import ConfigError, ModelError
from fairtune.experiment import masks as given_masks
from fairtune.models import load
from fairtune.models.backbone import describe

TINY = describe(load("test_vit"))
SMALL = describe(load("vit_small_dinov2"))
CNN = describe(load("tf_efficientnet_lite0"))

# What FairTune's `get_masked_model` enables for the bits that are named here, counted from 0.
BY_HAND = {
    "tune_full_block": ([1, 4], "block:1+4"),
    "tune_attention_blocks_random": ([0, 5], "attn:0+5"),
    "tune_layernorm_blocks_random": ([2], "norm1:2,norm2:2"),
    "tune_mlp_blocks_random": ([3], "mlp:3"),
    "tune_attention_layernorm": ([1], "attn:1,norm1:1,norm2:1"),
    "tune_attention_mlp": ([1], "attn:1,mlp:1"),
    "tune_layernorm_mlp": ([1], "norm1:1,norm2:1,mlp:1"),
    "tune_attention_layernorm_mlp": ([0], "attn:0,norm1:0,norm2:0,mlp:0"),
    # Block i // 3; i % 3 is norm1 with norm2, attn, mlp.
    "auto_peft1": ([0, 4, 17], "norm1:0,norm2:0,attn:1,mlp:5"),
    # Block i // 4; i % 4 is norm1, attn, norm2, mlp.
    "auto_peft2": ([0, 5, 10, 23], "norm1:0,attn:1,norm2:2,mlp:5"),
    # Block i // 4; i % 4 is qkv.weight, qkv.bias, proj.weight, proj.bias; pos_embed always.
    "tune_attention_params_random": (
        [0, 5, 10, 23],
        "pos,attn.qkv.weight:0,attn.qkv.bias:1,attn.proj.weight:2,attn.proj.bias:5",
    ),
}
PER_BLOCK = {"auto_peft1": 3, "auto_peft2": 4, "tune_attention_params_random": 4}


def size(layout: str) -> int:
    return TINY.depth * PER_BLOCK.get(layout, 1)


def saved(path: Path, values: Any, **kwargs: Any) -> Path:
    np.save(path / "mask.npy", np.array(values, **kwargs))
    return path / "mask.npy"


@pytest.mark.parametrize("layout", ALIASES)
@given(data=st.data())
@settings(max_examples=15)
def test_every_vector_survives_reading_and_writing(
    layout: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("masks")
    bits = data.draw(st.lists(st.integers(0, 1), min_size=size(layout), max_size=size(layout)))
    mask = read_mask(saved(folder, bits, dtype=np.int8), layout, TINY)
    write_mask(folder / "again.npy", mask, layout, TINY)
    again = np.load(folder / "again.npy", allow_pickle=False)
    assert again.dtype == np.int8
    assert again.tolist() == bits


@pytest.mark.parametrize("layout", BY_HAND)
def test_a_bit_means_the_module_that_fairtune_enables(layout: str, tmp_path: Path) -> None:
    on, rule = BY_HAND[layout]
    bits = np.zeros(size(layout), dtype=np.int8)
    bits[on] = 1
    assert read_mask(saved(tmp_path, bits), layout, TINY) == Rule.parse(rule).mask(TINY)


def test_the_examples_cover_every_layout() -> None:
    assert set(BY_HAND) == set(ALIASES)


def test_the_layouts_of_a_block_follow_the_order_of_its_tensors() -> None:
    units = [name for name in TINY.names if name.startswith("blocks.0.attn.")]
    layout = ALIASES["tune_attention_params_random"]["bits"]["types"]
    assert [f"blocks.0.{entry}" for entry in layout] == units


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, bool, np.float32, np.float64])
def test_any_kind_of_number_is_read(dtype: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, [0, 1, 0, 0, 0, 1], dtype=dtype)
    assert read_mask(path, "tune_full_block", TINY) == Rule.parse("block:1+5").mask(TINY)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0, 1, 0], [0, 0, 1]], r"no vector.*\n.*\(2, 3\)"),
        (1, "no vector"),
        ([0, 1, 0, 0, 2, 3], "2 at position 4, 2 such values"),
        ([0, 1, 0, 0, 0, -1], "-1 at position 5"),
        ([0, 1, 0.5, 0, 0, 1], "0.5 at position 2"),
        ([0, 1, float("nan"), 0, 0, 1], "nan at position 2"),
        (["0", "1", "0", "0", "0", "1"], "0 and 1 only"),
    ],
)
def test_what_is_no_mask_vector_is_refused(values: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        read_mask(saved(tmp_path, values), "tune_full_block", TINY)


def test_a_wrong_length_names_the_layouts_that_would_fit(tmp_path: Path) -> None:
    path = saved(tmp_path, [0] * 24)
    with pytest.raises(ModelError, match="18 values, for a model of 6 blocks") as caught:
        read_mask(path, "auto_peft1", TINY)
    assert "auto_peft2, tune_attention_params_random" in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(ModelError, match="for this model: none"):
        read_mask(saved(tmp_path, [0] * 36), "auto_peft1", TINY)
    assert read_mask(path.with_name("mask.npy"), "auto_peft1", SMALL) == Mask(())


def test_a_model_without_the_layouts_modules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no unit type"):
        read_mask(saved(tmp_path, [0] * CNN.depth), "tune_attention_blocks_random", CNN)
    with pytest.raises(ModelError, match="for this model: tune_full_block"):
        read_mask(saved(tmp_path, [0] * 6), "auto_peft1", TINY)


def test_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Loud:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "ran").write_text, ("it ran",))

    np.save(tmp_path / "mask.npy", np.array([Loud()], dtype=object), allow_pickle=True)
    with pytest.raises(ModelError, match="never opened"):
        read_mask(tmp_path / "mask.npy", "tune_full_block", TINY)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"0 1 0 1\n", b"\x93NUMPY\x01\x00", b"PK\x03\x04"])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mask.npy").write_bytes(content)
    with pytest.raises(ModelError, match=r"mask\.npy: "):
        read_mask(tmp_path / "mask.npy", "tune_full_block", TINY)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, [0, 1, 0, 0, 0, 1])
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelError, match="damaged"):
        read_mask(path, "tune_full_block", TINY)


def test_an_archive_of_vectors_is_no_vector(tmp_path: Path) -> None:
    np.savez(tmp_path / "mask.npz", a=[0, 1])
    with pytest.raises(ModelError, match="no vector"):
        read_mask(tmp_path / "mask.npz", "tune_full_block", TINY)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.npy: cannot read") as caught:
        read_mask(tmp_path / "nowhere.npy", "tune_full_block", TINY)
    assert "No such file" in str(caught.value)


@pytest.mark.parametrize("act", [read_mask, lambda p, o, u: write_mask(p, Mask(()), o, u)])
def test_an_unknown_layout_is_refused_with_the_nearest(act: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'auto_peft1'"):
        act(saved(tmp_path, [0] * 18), "auto_peft_1", TINY)


@pytest.mark.parametrize(
    ("rule", "layout", "message"),
    [
        ("attn:all", "tune_attention_params_random", r"always trains.*\n.*'pos'"),
        ("norm1:2", "auto_peft1", "layouts that can say this mask: auto_peft2"),
        ("attn:1,stem", "auto_peft1", "'stem'"),
        ("mlp:0", "tune_attention_blocks_random", "tune_mlp_blocks_random"),
        ("fullft", "auto_peft1", "none; keep recipe.json"),
    ],
)
def test_a_mask_that_the_layout_cannot_say_is_not_written(
    rule: str, layout: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        write_mask(tmp_path / "mask.npy", Rule.parse(rule).mask(TINY), layout, TINY)
    assert list(tmp_path.iterdir()) == []


def test_long_lists_of_units_are_cut_short(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="and 3 more"):
        write_mask(
            tmp_path / "mask.npy",
            Rule.parse("block:2").mask(TINY),
            "tune_layernorm_blocks_random",
            TINY,
        )


def test_a_vector_is_read_where_a_mask_is_given(tmp_path: Path) -> None:
    path = saved(tmp_path, [0, 1, 0, 0, 0, 1])
    asked = given_masks.read_mask(str(path), "tune_full_block", TINY)
    assert asked == Rule.parse("block:1+5").mask(TINY)
    with pytest.raises(ConfigError, match="give --layout"):
        given_masks.read_mask(str(path), None, TINY)
    with pytest.raises(ConfigError, match="did you mean 'tune_full_block'"):
        given_masks.read_mask(str(path), "tune_full_blok", TINY)


def test_bits_are_those_of_the_image_tower_where_there_are_several(tmp_path: Path) -> None:
    units = describe(network_spec())
    bits = np.zeros(18, dtype=np.int8)
    bits[[0, 4, 17]] = 1
    path = saved(tmp_path, bits)
    mask = read_mask(path, "auto_peft1", units)
    assert mask == Rule.parse("image.norm:0,image.attn:1,image.mlp:5").mask(units)
    write_mask(tmp_path / "again.npy", mask, "auto_peft1", units)
    assert np.load(tmp_path / "again.npy").tolist() == bits.tolist()
    with pytest.raises(ModelError, match="18 values, for a model of 6 blocks"):
        read_mask(saved(tmp_path, [0] * 25), "auto_peft1", units)
    both = Rule.parse("norm:0").mask(units)
    with pytest.raises(ModelError, match="no bit of the layout means alone") as caught:
        write_mask(tmp_path / "both.npy", both, "auto_peft1", units)
    assert "text.encoder.layer.0.attention.output.LayerNorm.weight" in str(caught.value)
    assert not (tmp_path / "both.npy").exists()
