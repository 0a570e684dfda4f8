"""Every adaptation method on a network of two towers: of images, of texts, and of both."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from kit_language import network_spec
from kit_nets import with_fields
from torch import Tensor, nn

from fairtune.adaptation.attach import Attached
from fairtune.adaptation.methods import METHODS
from fairtune.adaptation.placement import Methods
from fairtune.adaptation.rules import Rule
from fairtune.errors import ModelError
from fairtune.models import Units
from fairtune.models.backbone import Backbone, build, describe
from fairtune.models.language import similarity
from fairtune.training.net import adapted, set_modes
from fairtune.usage.contrastive import info_nce

CLOSE = 1e-5
RULES = {
    "image": "image.block:0+last-1",
    "text": "text.block:all",
    "both": "image.block:0+last-1,text.block:all",
}
CASES = [(method, "image" if method == "vpt" else "both") for method in METHODS]
CASES += [(method, tower) for method in ("direct", "lora") for tower in ("image", "text")]
FIELDS: dict[str, dict[str, Any]] = {"lora": {"targets": "qv"}}
"""Fields beside those of small networks: what differs between fused and split attention."""


@functools.cache
def base() -> tuple[Backbone, Units]:
    """Return the frozen network and its units; only to be read."""
    spec = network_spec()
    backbone = build(spec, None, None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, parameter in backbone.net.named_parameters():
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
            elif name.startswith("text.embeddings"):
                parameter.data *= 20  # all texts of a random BERT are nearly one
    return backbone.requires_grad_(False), describe(spec)


def adapt(method: Any, rule: str) -> tuple[Backbone, tuple[Attached, ...]]:
    """Return a private network with `method`, as a recipe writes it, at work on a rule's units."""
    backbone, units = base()
    mask = Rule.parse(rule).mask(units).units
    made, attached = adapted(backbone, Methods.parse(method).placements(mask, units), units, 10, 1)
    set_modes(made)
    return made, attached


def pairs() -> tuple[Tensor, Tensor]:
    """Return four images and four texts of unequal length."""
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(4, 3, 32, 32, generator=generator)
    text = torch.randint(5, 100, (4, 9), generator=generator)
    text[1, 5:], text[2, 7:] = -1, -1
    return image, text


def logits(net: Backbone) -> Tensor:
    image, text = pairs()
    scale = net.language.logit_scale.exp()
    return scale * similarity(net.joint(image), net.words(text))


def trained(attached: tuple[Attached, ...]) -> dict[str, nn.Parameter]:
    return {name: p for one in attached for name, p in one.trained.items()}


def steps(net: Backbone, attached: tuple[Attached, ...], count: int = 3) -> set[str]:
    """Make steps of the contrastive loss; return which trained tensors had a gradient."""
    mine, seen = trained(attached), set[str]()
    optimizer = torch.optim.SGD(mine.values(), lr=0.05)
    for step in range(1, count + 1):
        optimizer.zero_grad()
        loss = info_nce(logits(net)).mean()
        loss = loss + sum(one.penalty() for one in attached if one.penalty is not None)
        loss.backward()
        seen |= {n for n, p in mine.items() if p.grad is not None and float(p.grad.abs().max())}
        optimizer.step()
        for one in attached:
            if one.stepped is not None:
                one.stepped(step)
    return seen


def of_method(method: str) -> Any:
    return with_fields(method, **FIELDS.get(method, {}))


@pytest.mark.parametrize(("method", "towers"), CASES)
def test_every_trained_tensor_gets_a_gradient_and_nothing_else(method: str, towers: str) -> None:
    session, _ = base()
    held = {name: p.clone() for name, p in session.net.named_parameters()}
    with torch.no_grad():
        before = logits(session)
    net, attached = adapt(of_method(method), RULES[towers])
    net.eval()
    with torch.no_grad():
        start = logits(net)
    if METHODS.get(method).starts_unchanged:  # type: ignore[attr-defined]
        assert torch.allclose(start, before, atol=1e-4)
    set_modes(net)
    mine = trained(attached)
    assert {name.split(".")[0] for name in mine} == (
        {"image", "text"} if towers == "both" else {towers}
    )
    # A softmax over tokens does not change with one bias of all keys.
    idle = {n for n in mine if n.endswith(("self.key.bias", "self.key.ssf.shift"))}
    assert steps(net, attached) | idle == set(mine)
    strangers = [n for n, p in net.net.named_parameters() if p.grad is not None]
    assert len(strangers) == len(mine)
    net.eval()
    with torch.no_grad():
        after = logits(net)
    assert not torch.equal(after, start)
    assert all(torch.equal(held[n], p) for n, p in session.net.named_parameters())
    folded(net, attached, session, after)


def folded(
    net: Backbone, attached: tuple[Attached, ...], session: Backbone, expected: Tensor
) -> None:
    """Check that a network that can be folded computes the same with the architecture's names."""
    if any(one.cannot_fold is not None for one in attached):
        return
    plain = copy.deepcopy(net)
    for one in attached:
        if one.fold is not None:
            one.fold(plain.net)
    assert set(plain.net.state_dict()) == set(session.net.state_dict())
    with torch.no_grad():
        assert torch.allclose(logits(plain), expected, atol=1e-3)


def test_lora_on_parts_is_of_the_fused_layer_of_one_tower_and_the_split_ones_of_the_other() -> (
    None
):
    _, attached = adapt({"lora": {"rank": 2, "targets": "qv"}}, "attn:0")
    layers = {name.partition(".lora")[0] for name in trained(attached)}
    text = "text.encoder.layer.0.attention.self"
    assert layers == {"image.blocks.0.attn.qkv", f"{text}.query", f"{text}.value"}
    (one,) = attached
    assert one.peft is None  # peft alone cannot load the fused half


def test_a_bottleneck_goes_beside_the_mlp_of_a_bert() -> None:
    net, attached = adapt(
        {"adaptformer": {"width": 4, "scale": 0.5, "dropout": 0.0}}, "text.mlp:0"
    )
    mine = trained(attached)
    holder = "text.encoder.layer.0.output.adaptformer"
    assert set(mine) == {
        f"{holder}.{side}.{t}" for side in ("down", "up") for t in ("weight", "bias")
    }
    with torch.no_grad():
        for parameter in mine.values():
            parameter.normal_()
    layer: Any = net.net.get_submodule("text.encoder.layer.0")
    x = torch.randn(2, 5, 32)
    inner = layer.output.dense(layer.intermediate(x))
    down, up = (layer.get_submodule(f"output.adaptformer.{side}") for side in ("down", "up"))
    expected = layer.output.LayerNorm(x + inner + 0.5 * up(torch.relu(down(x))))
    assert torch.allclose(layer.feed_forward_chunk(x), expected, atol=1e-6)


def test_ia3_scales_the_inputs_of_the_last_layer_of_a_berts_mlp() -> None:
    _, attached = adapt("ia3", "text.block:0")
    sizes = {name.split(".layer.0.")[1]: p.shape for name, p in trained(attached).items()}
    assert sizes["output.dense.ia3_l"] == (1, 64)
    assert sizes["attention.output.dense.ia3_l"] == (32, 1)
    assert sizes["intermediate.dense.ia3_l"] == (64, 1)


def test_prompts_are_of_the_tower_of_the_images() -> None:
    _, attached = adapt({"vpt": {"tokens": 2}}, "image.attn:1+3,logit_scale")
    assert set(trained(attached)) == {f"image.blocks.{d}.vpt.values" for d in (1, 3)}
    for rule in ("text.attn:0", "attn:last-1", "image.attn:1,text.pos"):
        with pytest.raises(ModelError, match="of another tower") as caught:
            adapt("vpt", rule)
        assert "method: {image: vpt, text: lora}" in str(caught.value)


def test_each_tower_may_have_a_method_of_its_own() -> None:
    method = {
        "image": {"vpt": {"tokens": 2}},
        "text": {"lora": {"rank": 2}},
        "logit_scale": "direct",
    }
    _, attached = adapt(method, "fullft")
    towers = {name.split(".")[0] for name in trained(attached)}
    assert towers == {"image", "text", "logit_scale"}
    assert all("vpt" in n for n in trained(attached) if n.startswith("image."))


def test_methods_of_types_of_towers_settle_and_act() -> None:
    _, units = base()
    written = {"image.attn": {"lora": {"rank": 2}}, "text.mlp": {"adaptformer": {"width": 4}}}
    methods = Methods.parse(written)
    assert Methods.parse(methods.to_json()) == methods
    mask = Rule.parse("attn+mlp:all").mask(units).units
    assert methods.settled(mask, units) == methods
    _, attached = adapt(written, "attn+mlp:all")
    names = trained(attached)
    assert any(".attn.qkv.lora_A" in n for n in names)
    assert any(".output.adaptformer." in n for n in names)
    assert "image.blocks.0.mlp.fc1.weight" in names
    assert "text.encoder.layer.0.attention.self.query.weight" in names
    alone = Rule.parse("image.attn:all").mask(units).units
    assert methods.settled(alone, units) == Methods.parse({"lora": {"rank": 2}})


@pytest.mark.parametrize(
    ("method", "rule", "message"),
    [
        ("lora", "text.stem", "nothing is left to train"),
        ({"lora": {"targets": "qv"}}, "text.mlp:all", "adapts attention's q, v layers"),
        ("adaptformer", "text.attn:all", "are in none"),
        ({"lora": {"rank": 64}}, "block:0", "larger than the layer"),
        ({"imag.attn": "lora"}, "image.attn:all", "did you mean 'image.attn'"),
    ],
)
def test_what_a_tower_cannot_take_is_refused(method: Any, rule: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        adapt(method, rule)
