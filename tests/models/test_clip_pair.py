"""CLIP and SigLIP with both towers: transformers' own numbers, gradients, cuts, messages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from fairtune.adaptation.placement import Methods
from fairtune.adaptation.rules import Rule
from fairtune.config import Settings, settings
from fairtune.errors import FairtuneError, ModelError
from fairtune.models import ModelSpec, load
from fairtune.models.backbone import Backbone, build, describe
from fairtune.models.language import PADDED, is_language, similarity
from fairtune.models.registries import LOADERS
from fairtune.models.tokenizer_rule import TokenizerRule
from fairtune.models.weights import from_file
from fairtune.training.net import adapted

SIDE, WORDS, EOS = 32, 50, 49
IMAGE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": WORDS,
    "max_position_embeddings": 8,
}
LIMIT = TokenizerRule(limit=8)
PADDING = TokenizerRule(limit=8, pad="limit", pad_token="</s>")
# Of different lengths; the last token of each is the end's.
TEXTS = [[3, 7, 11, EOS], [5, EOS], [9, 2, 30, 4, 8, EOS], [1, 12, EOS]]


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return settings({"FAIRTUNE_CACHE": str(tmp_path / "cache"), "FAIRTUNE_OFFLINE": "1"})


def clip_spec(**more: Any) -> ModelSpec:
    loader = {"image": IMAGE, "text": TEXT, "dim": 20, "eos_token_id": EOS, **more}
    return _small("clip_vit_b32", {"clip": loader}, LIMIT)


def siglip_spec() -> ModelSpec:
    loader = {"image": IMAGE, "text": TEXT}
    return _small("siglip_base_patch16_224", {"siglip": loader}, PADDING)


def _small(name: str, loader: Any, tokenizer: TokenizerRule) -> ModelSpec:
    spec = load(name)
    size = spec.image_size.model_copy(update={"default": SIDE, "multiple_of": 8})
    changes = {"loader": LOADERS.parse(loader), "image_size": size, "tokenizer": tokenizer}
    return spec.model_copy(update=changes)


def theirs(kind: str, eos: int = EOS) -> nn.Module:
    """A random model of transformers; its positions and biases are no zeros."""
    image, text = IMAGE | {"image_size": SIDE}, TEXT | {"bos_token_id": 0, "eos_token_id": eos}
    torch.manual_seed(4)
    if kind == "clip":
        config = CLIPConfig(vision_config=image, text_config=text, projection_dim=20)
        model: nn.Module = CLIPModel(config)
    else:
        text |= {"projection_size": IMAGE["hidden_size"]}
        model = SiglipModel(SiglipConfig(vision_config=image, text_config=text))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def specs() -> dict[str, ModelSpec]:
    return {"clip": clip_spec(), "siglip": siglip_spec()}


def loaded(kind: str, model: Any, folder: Path, here: Settings) -> Backbone:
    model.save_pretrained(folder)
    spec = specs()[kind]
    return build(spec, None, from_file(spec, folder / "model.safetensors", here))


def tokens(kind: str) -> Tensor:
    """As a tokenizer of ours gives them."""
    length, fill = (6, PADDED) if kind == "clip" else (8, 1)
    out = torch.full((len(TEXTS), length), fill)
    for row, text in zip(out, TEXTS):
        row[: len(text)] = torch.tensor(text)
    return out


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_saved_model_gives_what_transformers_gives(
    kind: str, here: Settings, tmp_path: Path
) -> None:
    model: Any = theirs(kind)
    backbone = loaded(kind, model, tmp_path, here)
    net, ids = backbone.language, tokens(kind)
    mask = (ids != PADDED).long()
    with torch.no_grad():
        found = model(
            pixel_values=images(),
            input_ids=ids.clamp(min=0),
            attention_mask=mask if kind == "clip" else None,
            return_loss=True,
        )
        image, text = backbone.joint(images()), backbone.words(ids)
        logits = similarity(image, text) * net.logit_scale.exp() + getattr(net, "logit_bias", 0)
    close = {"atol": 1e-5, "rtol": 1e-5}
    assert torch.allclose(functional.normalize(image, dim=-1), found.image_embeds, **close)
    assert torch.allclose(functional.normalize(text, dim=-1), found.text_embeds, **close)
    assert torch.allclose(logits, found.logits_per_image, **close)
    assert torch.equal(backbone.embed(images()), image)
    assert backbone.dim == image.shape[1]
    assert net.logit_scale.shape == ()
    if kind == "clip":
        pairs = torch.arange(len(ids))
        both = [functional.cross_entropy(x, pairs) for x in (logits, logits.T)]
        assert sum(both) / 2 == pytest.approx(float(found.loss), abs=1e-5)


def test_the_end_of_a_text_is_found_as_in_an_old_config(here: Settings, tmp_path: Path) -> None:
    """There `eos_token_id: 2` stands for the highest token number, which is the end's."""
    model: Any = theirs("clip", eos=2)
    model.save_pretrained(tmp_path)
    spec = clip_spec(eos_token_id=2)
    backbone = build(spec, None, from_file(spec, tmp_path / "model.safetensors", here))
    ids = tokens("clip")
    with torch.no_grad():
        expected = model.get_text_features(input_ids=ids.clamp(min=0)).pooler_output
        assert torch.allclose(backbone.words(ids), expected, atol=1e-5)


def test_names_of_the_hub_and_ours_are_the_same_weights(here: Settings, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model: Any = theirs("clip")
    spec = clip_spec()
    old = {n: t.clone() for n, t in model.state_dict().items()}
    old["text_model.embeddings.position_ids"] = torch.arange(8)[None]
    torch.save(old, tmp_path / "pytorch_model.bin")
    one = from_file(spec, tmp_path / "pytorch_model.bin", here)
    net = build(spec, None, one).net
    save_file({n: t.clone() for n, t in net.state_dict().items()}, tmp_path / "ours.safetensors")
    assert from_file(spec, tmp_path / "ours.safetensors", here).sha == one.sha
    assert {n.split(".")[0] for n in net.state_dict()} == {"image", "text", "logit_scale"}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_model_with_weights_is_built_without_drawing_values(
    kind: str, here: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = loaded(kind, theirs(kind), tmp_path, here)
    spec = specs()[kind]
    weights = from_file(spec, tmp_path / "model.safetensors", here)
    monkeypatch.setattr("fairtune.models.made.seeded", None)
    again = build(spec, None, weights)
    with torch.no_grad():
        assert torch.equal(again.joint(images()), backbone.joint(images()))
        assert torch.equal(again.words(tokens(kind)), backbone.words(tokens(kind)))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_every_tensor_of_both_towers_gets_a_gradient(kind: str) -> None:
    spec = specs()[kind]
    backbone = build(spec, None, None)
    assert is_language(backbone.net)
    net = backbone.language
    cosine = similarity(backbone.joint(images()), backbone.words(tokens(kind)))
    logits = cosine * net.logit_scale.exp() + getattr(net, "logit_bias", 0)
    (logits * torch.randn(4, 4)).sum().backward()
    without = {n for n, p in backbone.net.named_parameters() if p.grad is None}
    assert not without
    # A key's bias shifts all products of a query alike: its gradient is rounding alone.
    zero = {n for n, p in backbone.net.named_parameters() if not p.grad.abs().max() > 0}
    assert not {n for n in zero if not n.endswith("k_proj.bias")}
    assert set(backbone.net.state_dict()) == {
        t for u in describe(spec).names for t in describe(spec).parameters[u]
    }


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_cut_image_tower_is_the_whole_one_bit_for_bit(kind: str) -> None:
    backbone = build(specs()[kind], None, None)
    assert (backbone.depth, backbone.tokens, len(backbone.blocks)) == (3, 16, 3)
    with torch.no_grad():
        expected, joint = backbone.embed(images()), backbone.joint(images())
        for cut in (1, 2, 3):
            hidden = backbone.front(images(), cut)
            backbone.starts_at = cut
            assert torch.equal(backbone.embed(hidden), expected)
            assert torch.equal(backbone.joint(hidden), joint)
            backbone.starts_at = 0
    backbone.checkpointing = True
    assert torch.equal(backbone.embed(images()), expected)
    backbone.requires_grad_(False)

    def first(name: str) -> int:
        parameter = backbone.net.get_parameter(f"image.{name}").requires_grad_(True)
        found = backbone.first_trained
        parameter.requires_grad_(False)
        return found

    assert first("vision_model.encoder.layers.1.mlp.fc1.bias") == 1
    assert first("vision_model.post_layernorm.weight") == 3
    assert first("vision_model.embeddings.position_embedding.weight") == 0
    last = "vision_model.head.probe" if kind == "siglip" else "projection.weight"
    assert first(last) == backbone.first_trained == 3
    before = backbone.before(2)
    assert any(name.startswith("vision_model.encoder.layers.1.") for name in before)
    assert not any("layers.2." in name or "post_layernorm" in name for name in before)
    # What trains of the text tower does not ask the image tower to be computed anew.
    backbone.language.text.requires_grad_(True)
    assert backbone.text_trains
    assert backbone.first_trained == 3


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_positions_follow_the_image_size(kind: str, here: Settings, tmp_path: Path) -> None:
    model: Any = theirs(kind)
    model.save_pretrained(tmp_path)
    spec = specs()[kind]
    weights = from_file(spec, tmp_path / "model.safetensors", here)
    larger = build(spec, 48, weights)
    x = torch.randn(2, 3, 48, 48)
    assert (larger.tokens, larger.embed(x).shape) == (36, (2, larger.dim))
    with torch.no_grad():
        # transformers resamples at every call, without the low-pass filter for smaller images.
        own = model.get_image_features(pixel_values=x, interpolate_pos_encoding=True)
        cosine = functional.cosine_similarity(larger.joint(x), own.pooler_output)
    assert float(cosine.min()) > 0.99


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for spec in specs().values():
        with pytest.raises(ModelError, match="needs the package transformers") as caught:
            spec.seeded(SIDE, 0)
        assert "fairtune[clip]" in str(caught.value.todo)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": IMAGE | {"num_attention_heads": 5}}, "do not divide 'hidden_size'"),
        ({"image": IMAGE | {"patch_size": 0}}, "greater than or equal to 1"),
        ({"text": {k: v for k, v in TEXT.items() if k != "vocab_size"}}, "vocab_size"),
        ({"dim": 0}, "greater than or equal to 1"),
        ({"text": TEXT | {"hidden_act": "quick"}}, "refuses the sizes"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(FairtuneError, match=said):
        describe(clip_spec(**change))


def test_a_tokenizer_that_does_not_fit_the_text_tower_is_refused() -> None:
    long = clip_spec().model_copy(update={"tokenizer": TokenizerRule(limit=9)})
    with pytest.raises(ModelError, match="above what the text tower reads"):
        describe(long)
    ragged = siglip_spec().model_copy(update={"tokenizer": LIMIT})
    with pytest.raises(ModelError, match="padded to the limit"):
        describe(ragged)


def test_half_a_model_is_refused(here: Settings, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = theirs("clip").state_dict()
    half = {n: t.clone() for n, t in state.items() if not n.startswith("text_")}
    save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(ModelError, match="tensors of model 'clip_vit_b32' are missing"):
        from_file(clip_spec(), tmp_path / "half.safetensors", here)
    more = {n: t.clone() for n, t in state.items()} | {"text_decoder.weight": torch.zeros(2)}
    save_file(more, tmp_path / "more.safetensors")
    with pytest.raises(FairtuneError, match="does not have"):
        from_file(clip_spec(), tmp_path / "more.safetensors", here)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_low_rank_updates_reach_attention_of_both_towers(kind: str) -> None:
    spec = specs()[kind]
    units = describe(spec)
    mask = Rule.parse("image.attn:last-2,text.attn:all").mask(units)
    backbone = build(spec, None, None).requires_grad_(False)
    placed = Methods.parse({"lora": {"rank": 2, "targets": "qkv"}}).placements(mask.units, units)
    made, attached = adapted(backbone, placed, units, 10, 1)
    trained = {name: p for one in attached for name, p in one.trained.items()}
    similarity(made.joint(images()), made.words(tokens(kind))).diagonal().sum().backward()
    assert len(trained) == 2 * 3 * (2 + 2)
    assert all(parameter.grad is not None for parameter in trained.values())
    assert made.first_trained == 1
