"""Foreign checkpoints by a declared rule: BiomedCLIP, MedCLIP, MedMAE, C2L, MoCo-CXR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel, SwinConfig, SwinModel

from fairtune.config import Settings, parse, settings
from fairtune.errors import FairtuneError, ModelError
from fairtune.models import ModelSpec, load
from fairtune.models.backbone import build
from fairtune.models.checkpoint_rule import CheckpointRule
from fairtune.models.tokenizer_rule import TokenizerRule
from fairtune.models.weights import from_file, resolve

BERT = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 8,
}
TEXTS = torch.tensor([[2, 7, 11, 3], [2, 3, -1, -1]])


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return settings({"FAIRTUNE_CACHE": str(tmp_path / "cache"), "FAIRTUNE_OFFLINE": "1"})


def small(name: str, **more: Any) -> ModelSpec:
    """A shipped model with a text tower that is small, and perhaps another image tower."""
    spec = load(name)
    text = spec.loader.text.model_copy(update=BERT)
    loader = spec.loader.model_copy(update={"text": text, "dim": 16, **more})
    return spec.model_copy(update={"loader": loader, "tokenizer": TokenizerRule(limit=8)})


def shaken(net: nn.Module) -> nn.Module:
    """Random values also where a constructor writes zeros or ones."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return net.eval()


def biomedclip() -> Any:
    """open_clip's network of BiomedCLIP, with a small ViT of timm and a small BERT."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = TimmModel("test_vit", 16, image_size=160, pool="", proj="linear")
            config = BertConfig(**BERT)
            self.text = HFTextEncoder(
                "", 16, config, "cls_last_hidden_state_pooler", proj_type="mlp"
            )
            # Made by a model's name, it has no pooler; made by a configuration, one without use.
            self.text.transformer.pooler = None
            self.logit_scale = nn.Parameter(torch.tensor(4.0))

    return shaken(Both())


def test_biomedclip_gives_what_open_clip_gives(here: Settings, tmp_path: Path) -> None:
    model, spec = biomedclip(), small("biomedclip", image="test_vit")
    spec = spec.model_copy(
        update={"image_size": spec.image_size.model_copy(update={"default": 160})}
    )
    state = dict(model.state_dict())
    state["text.transformer.embeddings.position_ids"] = torch.arange(8)[None]
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    weights = from_file(spec, tmp_path / "open_clip_pytorch_model.bin", here)
    backbone = build(spec, None, weights)
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.allclose(backbone.joint(x), model.visual(x), atol=1e-5)
        assert torch.allclose(backbone.words(TEXTS), model.text(TEXTS.clamp(min=0)), atol=1e-5)
        assert torch.equal(backbone.language.logit_scale, model.logit_scale)
        assert build(spec, 96, weights).joint(x[..., :96, :96]).shape == (2, 16)
    assert backbone.depth == 6


def medclip() -> Any:
    """The network of the package medclip with its names, and a small BERT."""

    def half(model: nn.Module, dim: int) -> nn.Module:
        held = nn.Module()
        held.model, held.projection_head = model, nn.Linear(dim, 16, bias=False)
        return held

    both = nn.Module()
    both.vision_model = half(SwinModel(SwinConfig()), 768)
    both.text_model = half(BertModel(BertConfig(**BERT)), BERT["hidden_size"])
    both.logit_scale = nn.Parameter(torch.tensor(2.5))
    return shaken(both)


def test_medclip_gives_what_its_package_computes(here: Settings, tmp_path: Path) -> None:
    both, spec = medclip(), small("medclip_vit")
    state = {n: t for n, t in both.state_dict().items() if not n.startswith("vision_model.model.")}
    # A file has the names of the hub, which newer versions of transformers change on loading.
    both.vision_model.model.save_pretrained(tmp_path / "swin")
    swin = load_file(tmp_path / "swin" / "model.safetensors")
    state |= {f"vision_model.model.{name}": tensor for name, tensor in swin.items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    backbone = build(spec, None, from_file(spec, tmp_path / "pytorch_model.bin", here))
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        vision = both.vision_model
        image = vision.projection_head(vision.model(x).pooler_output)
        assert torch.allclose(backbone.joint(x), image, atol=1e-4)
        # Its mean goes over padding too, so texts are compared one by one.
        for text, length in zip(TEXTS, (4, 2)):
            found = both.text_model.model(text[None, :length], output_hidden_states=True)
            states = torch.stack([found.hidden_states[at] for at in (1, 2, -1)])
            own = both.text_model.projection_head(states.mean(dim=(0, 2)))
            assert torch.allclose(backbone.words(text[None]), own, atol=1e-5)
        assert torch.equal(backbone.language.logit_scale, both.logit_scale)


def resnet() -> dict[str, Tensor]:
    net = shaken(timm.create_model("resnet18", num_classes=128))
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "key", "start", "more"),
    [
        ("c2l_resnet18", "model", "encoder.module.", {}),
        (
            "moco_cxr_resnet18",
            "state_dict",
            "module.encoder_q.",
            {"module.queue": torch.zeros(128, 4), "module.queue_ptr": torch.zeros(1)},
        ),
    ],
)
def test_a_resnet_pretrained_by_contrast_is_loaded_without_its_head(
    name: str, key: str, start: str, more: dict[str, Tensor], here: Settings, tmp_path: Path
) -> None:
    spec, own = load(name), resnet()
    state = {f"{start}{n}": t for n, t in own.items()} | more
    if more:
        state["module.encoder_k.conv1.weight"] = torch.zeros_like(own["conv1.weight"])
    torch.save({key: state, "epoch": 3, "arch": "resnet18"}, tmp_path / "file.pth")
    weights = resolve(spec, str(tmp_path / "file.pth"), here)
    net = build(spec, 64, weights).net
    found = net.state_dict()
    assert set(found) == {n for n in own if not n.startswith("fc.")}
    assert all(torch.equal(found[n], own[n].to(found[n].dtype)) for n in found)
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 512)
    torch.save({f"{start}fc.bias": own["fc.bias"]}, tmp_path / "bare.pth")
    with pytest.raises(ModelError, match=f"has no '{key}'"):
        resolve(spec, str(tmp_path / "bare.pth"), here)


def test_the_rule_of_medmae_leaves_the_encoder() -> None:
    spec = load("medmae_vit_b16")
    expected = spec.outline(224).state_dict()
    decoder = ("mask_token", "decoder_embed.weight", "decoder_blocks.0.norm1.weight")
    file = {**expected, **{name: torch.zeros(1) for name in decoder}}
    assert spec.loader.renamed(file, "a file") == expected


def test_without_a_file_it_is_said_how_to_give_one(here: Settings) -> None:
    with pytest.raises(ModelError, match="no weights for model 'c2l_resnet18'") as caught:
        resolve(load("c2l_resnet18"), "auto", here)
    assert "models pull c2l_resnet18 --from FILE" in str(caught.value.todo)


def named(*names: str) -> dict[str, Tensor]:
    return {name: torch.full((1, 2), float(at)) for at, name in enumerate(names)}


def test_steps_are_done_in_their_order() -> None:
    rule = CheckpointRule(
        drop=("^decoder", r"\.ids$"),
        strip=("module.encoder.", "module."),
        rename={r"\.layer(\d)\.": r".blocks.\1.", "^net": "image"},
        join={"attn.qkv": ("attn.q", "attn.k", "attn.v")},
    )
    file = named(
        "module.encoder.net.layer0.attn.k.weight",
        "module.encoder.net.layer0.attn.q.weight",
        "module.encoder.net.layer0.attn.v.weight",
        "module.scale",
        "decoder.weight",
        "module.position.ids",
    )
    out = rule.applied(file, "a file")
    assert set(out) == {"image.blocks.0.attn.qkv.weight", "scale"}
    assert out["image.blocks.0.attn.qkv.weight"][:, 0].tolist() == [1.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rename": {"^nothing": "x"}}, "fit no tensor of the file"),
        ({"join": {"attn.qkv": ("query", "key")}}, "fit no tensor of the file"),
        ({"join": {"both": ("one", "three")}}, "joins tensors to 'both' that the file lacks"),
        ({"rename": {"^one|^two": "same"}}, "two tensors one name"),
        ({"rename": {"(": "x"}}, "not a regular expression"),
        ({"rename": {"a": r"\1"}}, "not a replacement of this pattern"),
        ({"drop": ["["]}, "not a regular expression"),
        ({"join": {"a": ["b"]}}, "at least 2"),
        ({"keep": ["a"]}, "keep"),
    ],
)
def test_faults_of_a_rule_are_one_message(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(FairtuneError, match=said):
        parse(CheckpointRule, fields).applied(named("one.weight", "two.weight"), "a file")


def test_what_the_rule_leaves_over_is_said(here: Settings, tmp_path: Path) -> None:
    spec = load("c2l_resnet18")
    own = {f"encoder.module.{n}": t for n, t in resnet().items()}
    torch.save({"model": own | {"encoder.module.extra": torch.zeros(2)}}, tmp_path / "more.pth")
    with pytest.raises(FairtuneError, match="does not have") as caught:
        from_file(spec, tmp_path / "more.pth", here)
    assert "extra" in str(caught.value)
    lost = {n: t for n, t in own.items() if "layer4" not in n}
    torch.save({"model": lost}, tmp_path / "less.pth")
    with pytest.raises(ModelError, match="30 of the 120 tensors"):
        from_file(spec, tmp_path / "less.pth", here)
