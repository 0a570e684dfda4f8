"""Models of open_clip: its own numbers, both layouts of its files, what methods can reach."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from kit_nets import with_fields
from safetensors.torch import save_file
from torch import Tensor, nn

from fairtune.adaptation.methods import METHODS
from fairtune.adaptation.placement import Methods
from fairtune.adaptation.rules import Rule
from fairtune.config import Settings, settings
from fairtune.errors import FairtuneError, ModelError
from fairtune.models import ModelSpec, load, tokenizer
from fairtune.models.backbone import Backbone, build, describe
from fairtune.models.language import PADDED, is_language, similarity
from fairtune.models.registries import LOADERS
from fairtune.models.tokenizer_rule import TokenizerRule
from fairtune.models.weights import from_file
from fairtune.training.net import adapted, set_modes

SIDE, WORDS = 32, 50
CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": SIDE,
        "layers": 3,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 8,
        "vocab_size": WORDS,
        "width": 24,
        "heads": 2,
        "layers": 2,
    },
}
TOKENS = torch.tensor([[3, 7, 11, 49], [5, 49, PADDED, PADDED], [9, 2, 49, PADDED]])


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return settings({"FAIRTUNE_CACHE": str(tmp_path / "cache"), "FAIRTUNE_OFFLINE": "1"})


def spec(config: dict[str, Any] | None = CONFIG, **more: Any) -> ModelSpec:
    found = load("openclip_vit_b32_laion2b")
    size = found.image_size.model_copy(update={"default": SIDE, "multiple_of": 8})
    loader = LOADERS.parse({"open_clip": {"config": config}})
    changes = {"loader": loader, "image_size": size, "tokenizer": TokenizerRule(limit=8)}
    return found.model_copy(update={**changes, **more})


@functools.cache
def theirs(custom: bool = False) -> Any:
    torch.manual_seed(4)
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def filled_up(tokens: Tensor) -> Tensor:
    """As open_clip's tokenizer gives them: zeros up to the length of the text tower."""
    return nn.functional.pad(tokens.clamp(min=0), (0, 8 - tokens.shape[1]))


def images(count: int = 3, side: int = SIDE) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("custom", [False, True])
def test_both_layouts_give_what_open_clip_gives(
    custom: bool, here: Settings, tmp_path: Path
) -> None:
    model = theirs(custom)
    file = tmp_path / "open_clip_model.safetensors"
    save_file({n: t.clone() for n, t in model.state_dict().items()}, file)
    backbone = build(spec(), None, from_file(spec(), file, here))
    net = backbone.language
    assert is_language(net)
    with torch.no_grad():
        logits, _ = model.get_logits(images(), filled_up(TOKENS))
        image, text = backbone.joint(images()), backbone.words(TOKENS)
        assert torch.allclose(image, model.encode_image(images()), atol=1e-5)
        assert torch.allclose(text, model.encode_text(filled_up(TOKENS)), atol=1e-5)
        mine = similarity(image, text) * net.logit_scale.exp()
        assert torch.allclose(mine, logits, atol=1e-4, rtol=1e-5)
        assert torch.equal(backbone.embed(images()), image)
    assert {n.split(".")[0] for n in backbone.net.state_dict()} == {"image", "text", "logit_scale"}
    assert backbone.never_decayed <= set(backbone.tensors())
    assert "image.visual.positional_embedding" in backbone.never_decayed


def test_a_cut_tower_is_the_whole_one_and_every_tensor_gets_a_gradient() -> None:
    backbone = build(spec(), None, None)
    assert (backbone.depth, backbone.tokens) == (3, 16)
    with torch.no_grad():
        expected = backbone.joint(images())
        for cut in (1, 2, 3):
            hidden = backbone.front(images(), cut)
            backbone.starts_at = cut
            assert torch.equal(backbone.joint(hidden), expected)
            backbone.starts_at = 0
    scale = backbone.language.logit_scale.exp()
    logits = scale * similarity(backbone.joint(images()), backbone.words(TOKENS))
    (logits * torch.randn(3, 3)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in backbone.net.parameters())


def test_positions_are_resampled_as_open_clip_does(here: Settings, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    state = {n: t.clone() for n, t in theirs().state_dict().items()}
    torch.save({"state_dict": {f"module.{n}": t for n, t in state.items()}}, file)
    weights = from_file(spec(), file, here)
    config = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "image_size": 48}}
    larger = open_clip.CLIP(**config).eval()
    open_clip.factory.resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    backbone = build(spec(), 48, weights)
    x = images(side=48)
    with torch.no_grad():
        assert torch.allclose(backbone.joint(x), larger.encode_image(x), atol=1e-5)
        assert backbone.words(TOKENS).shape == (3, 16)


def adapt(method: Any, rule: str) -> tuple[Backbone, dict[str, nn.Parameter]]:
    """A network with a method at work, and what it trains."""
    units = describe(spec())
    backbone = build(spec(), None, None).requires_grad_(False)
    placed = Methods.parse(method).placements(Rule.parse(rule).mask(units).units, units)
    made, attached = adapted(backbone, placed, units, 10, 1)
    set_modes(made)
    return made, {name: p for one in attached for name, p in one.trained.items()}


@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("rule", ["image.attn:1", "image.mlp:1", "text.mlp:0", "text.attn:0"])
def test_a_method_reaches_what_it_trains_or_refuses(method: str, rule: str) -> None:
    """torch's fused attention never calls its layers: what wraps them would train in vain."""
    fields = with_fields(method)
    try:
        made, trained = adapt(fields, rule)
    except ModelError:
        made = None
    fused = ".attn" in rule and method not in ("direct", "bitfit")
    if made is None or fused:
        assert made is None or method == "vpt"
        assert fused or method in ("ln_tuning", "vpt")
        return
    logits = similarity(made.joint(images()), made.words(TOKENS))
    (logits * torch.randn(3, 3, generator=torch.Generator().manual_seed(1))).sum().backward()
    assert trained
    missing = [name for name, parameter in trained.items() if parameter.grad is None]
    assert not missing


def test_low_rank_methods_say_why_they_leave_fused_attention() -> None:
    with pytest.raises(ModelError, match="does not adapt this layer") as caught:
        adapt("lora", "image.attn:1")
    assert "MultiheadAttention" in str(caught.value.found)
    _, trained = adapt("direct", "image.attn:1")
    assert any(name.endswith("attn.in_proj_weight") for name in trained)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config": None, "architecture": "ViT-B-33"}, "did you mean 'ViT-B-32'"),
        ({"config": None, "architecture": "roberta-ViT-B-32"}, "of another kind"),
        ({"config": None, "architecture": "coca_ViT-B-32"}, "of another kind"),
        ({"channels": 1, "mean": (0.5,), "std": (0.5,)}, "three channels"),
        ({"tokenizer": TokenizerRule(limit=9)}, "above what the text tower reads"),
        ({"config": {**CONFIG, "vision": {}}}, "refuses the configuration"),
    ],
)
def test_what_cannot_be_made_is_said(changes: dict[str, Any], said: str) -> None:
    other = spec(**changes)
    with pytest.raises(FairtuneError, match=said):
        other.seeded(SIDE, 0)


def test_other_image_towers_are_whole() -> None:
    """A ResNet of open_clip, and a ViT of timm's at another size than its own."""
    vision = {"layers": [1, 1, 1, 1], "width": 8, "image_size": SIDE}
    resnet = spec({**CONFIG, "vision_cfg": vision})
    net = Backbone(resnet.seeded(64, 0), 16)
    assert (net.depth, net.tokens, net.joint(images(side=64)).shape) == (0, 0, (3, 16))
    vision = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"}
    vit = spec({**CONFIG, "vision_cfg": {**vision, "image_size": 160}})
    outline = vit.outline(SIDE).state_dict()
    full = vit.seeded(SIDE, 0)
    assert {n: t.shape for n, t in full.state_dict().items()} == {
        n: t.shape for n, t in outline.items()
    }
    net = Backbone(full, 16)
    assert (net.depth, net.tokens, net.joint(images()).shape) == (0, 4, (3, 16))


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ModelError, match="needs the package open_clip_torch") as caught:
        spec().outline(SIDE)
    assert "fairtune[clip]" in str(caught.value.todo)


TEXTS = (
    "a photo of a cat",
    "An X-ray, showing  pneumonia & effusion;\nit's 3.5cm",
    "naïve café – “quotes” 日本語 😀",
    "&lt;b&gt; Tom &amp;amp; Jerry â€œmojibakeâ€\x9d",
    "İstanbul STRASSE x_y",
    "",
)


def test_the_tokenizer_gives_open_clips_numbers() -> None:
    made = tokenizer.load(load("clip_vit_b32"), settings({}))
    mine, own = made(TEXTS), open_clip.tokenize(list(TEXTS)).numpy()
    for row, expected in zip(mine, own):
        assert row[row != PADDED].tolist() == expected[expected != 0].tolist()
    # One that is too long ends with a whole word, and with the token of the end.
    long = "pneumonia in the left lower lobe " * 40
    ids = made([long])[0]
    assert (len(ids), ids[0], ids[-1], made.cut) == (77, 49406, 49407, 1)
    kept = open_clip.tokenizer._tokenizer.decode(ids[1:-1].tolist())
    assert long.startswith(kept)


def test_words_are_no_special_tokens() -> None:
    made = tokenizer.load(load("clip_vit_b32"), settings({}))
    assert list(made(["<end_of_text>"])[0]).count(49407) == 1


def test_without_its_vocabulary_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "open_clip" else found(name)
    )
    with pytest.raises(ModelError, match="open_clip_torch") as caught:
        tokenizer.load(load("clip_vit_b32"), settings({}))
    assert "fairtune[clip]" in str(caught.value.todo)
