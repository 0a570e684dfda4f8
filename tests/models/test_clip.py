"""CLIP's vision tower as a backbone: units, weights from a hub file, other image sizes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from kit_nets import CLIP_SIZES, FAMILIES
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from fairtune.config import Settings, settings
from fairtune.errors import ConfigError, ModelError
from fairtune.models import ModelSpec, load
from fairtune.models.backbone import build, describe
from fairtune.models.made import resampled
from fairtune.models.registries import LOADERS
from fairtune.models.weights import from_file

SIDE = 224

POSITION = "vision_model.embeddings.position_embedding.weight"


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return settings({"FAIRTUNE_CACHE": str(tmp_path / "cache"), "FAIRTUNE_OFFLINE": "1"})


@pytest.fixture
def spec() -> ModelSpec:
    return FAMILIES["clip"].spec


@pytest.fixture
def whole() -> CLIPModel:
    """A whole CLIP model, text tower and projections included, as the hub has it."""
    text = {k: v for k, v in CLIP_SIZES.items() if k != "patch_size"}
    text |= {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 8}
    config = CLIPConfig(
        vision_config={**CLIP_SIZES, "image_size": SIDE}, text_config=text, projection_dim=8
    )
    torch.manual_seed(4)
    return CLIPModel(config).eval()


def test_units_name_the_parts_of_a_block() -> None:
    units = describe(load("clip_vit_base_patch16"))
    assert units.depth == 12
    assert units.total == 85_799_424
    block = "vision_model.encoder.layers.3"
    assert units.block_of(f"{block}.any") == block
    assert units.of("norm", 3) == tuple(
        f"{block}.layer_norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias")
    )
    assert set(units.of("norm+attn+mlp", 3)) == set(units.of("block", 3))
    assert units.singles == ("stem", "pos", "final_norm")


def test_a_hub_file_gives_what_transformers_gives(
    spec: ModelSpec, whole: CLIPModel, here: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({n: t.clone() for n, t in whole.state_dict().items()}, file)
    weights = from_file(spec, file, here)
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        theirs = whole.vision_model(x).pooler_output
        backbone = build(spec, None, weights)
        assert torch.allclose(backbone.embed(x), theirs, atol=1e-5)
        assert build(spec, 64, weights).embed(x[:, :, :64, :64]).shape == (2, backbone.dim)
    assert {POSITION} < set(backbone.never_decayed) <= set(backbone.tensors())


def test_a_file_without_the_tower_is_refused(
    spec: ModelSpec, here: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"text_model.weight": torch.zeros(2)}, file)
    with pytest.raises(ModelError):
        from_file(spec, file, here)


def test_positions_are_resampled_and_the_class_token_kept() -> None:
    grid = torch.linspace(0, 1, 4).reshape(1, 4).expand(4, 4).reshape(16, 1)
    positions = torch.cat([torch.full((1, 1), 9.0), grid])
    assert resampled(positions, 17) is positions
    small = resampled(positions, 5)
    assert small.shape == (5, 1)
    assert small[0] == 9.0
    left, right = small[1:].reshape(2, 2).T
    assert float(left.mean()) < float(right.mean())
    assert small[1:].mean() == pytest.approx(0.5, abs=1e-5)


def test_without_transformers_the_extra_is_named(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match="needs the package transformers") as caught:
        spec.seeded(SIDE, 0)
    assert "fairtune[clip]" in str(caught.value.todo)


def test_sizes_that_do_not_fit_are_refused(spec: ModelSpec) -> None:
    with pytest.raises(ConfigError, match="do not divide 'hidden_size'"):
        LOADERS.parse({"transformers": {**CLIP_SIZES, "num_attention_heads": 5}})
    loader = spec.loader.model_copy(update={"hidden_act": "quick"})
    other = spec.model_copy(update={"loader": loader})
    with pytest.raises(ModelError, match="refuses the sizes"):
        other.seeded(SIDE, 0)
