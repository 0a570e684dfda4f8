"""What single methods do: sizes, parts of attention, schedules, prompts, and what they refuse."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from kit_nets import adapt, base, images, shaken, trained, with_fields

from fairtune.adaptation.methods import METHODS
from fairtune.adaptation.methods.adalora import orthogonality
from fairtune.errors import FairtuneError, ModelError

DIM, HIDDEN = 64, 256


def names_of(family: str, method: Any, rule: str | None = None) -> set[str]:
    return set(trained(adapt(family, method, rule)[1]))


def sizes(family: str, method: Any, rule: str | None = None) -> dict[str, int]:
    return {n: p.numel() for n, p in trained(adapt(family, method, rule)[1]).items()}


def test_lora_has_two_thin_matrices_a_layer() -> None:
    found = sizes("vit", {"lora": {"rank": 4}}, "attn:0")
    assert found == {
        "blocks.0.attn.qkv.lora_A.weight": 4 * DIM,
        "blocks.0.attn.qkv.lora_B.weight": 4 * 3 * DIM,
        "blocks.0.attn.proj.lora_A.weight": 4 * DIM,
        "blocks.0.attn.proj.lora_B.weight": 4 * DIM,
    }


@pytest.mark.parametrize(("method", "factor"), [("lora", 16 / 4), ("rslora", 16 / 2)])
def test_the_factor_of_lora_is_the_papers(method: str, factor: float) -> None:
    net, attached = adapt("vit", {method: {"rank": 4, "alpha": 16}}, "attn.proj.weight:0")
    shaken(attached)
    own = trained(attached)
    a, b = (own[f"blocks.0.attn.proj.lora_{x}.weight"].detach() for x in "AB")
    weight = base("vit")[1] and base("vit")[0].net.blocks[0].attn.proj.weight.clone()
    plain = copy.deepcopy(net.net)
    attached[0].fold(plain)  # type: ignore[misc]
    assert torch.allclose(plain.blocks[0].attn.proj.weight, weight + factor * b @ a, atol=1e-6)


@pytest.mark.parametrize("targets", ["q", "v", "qv", "kv", "qk", "qkv"])
def test_lora_on_parts_of_a_fused_layer_leaves_the_others_alone(targets: str) -> None:
    net, attached = adapt("vit", {"lora": {"rank": 2, "targets": targets}}, "attn:0")
    shaken(attached)
    assert set(trained(attached)) == {
        "blocks.0.attn.qkv.lora_parts.down",
        "blocks.0.attn.qkv.lora_parts.up",
    }
    plain = copy.deepcopy(net.net)
    attached[0].fold(plain)  # type: ignore[misc]
    before = base("vit")[0].net.blocks[0].attn.qkv.weight
    changed = (plain.blocks[0].attn.qkv.weight != before).any(dim=1).reshape(3, DIM)
    assert ["qkv"[i] for i in range(3) if changed[i].all()] == sorted(targets, key="qkv".index)
    assert [i for i in range(3) if changed[i].any()] == ["qkv".index(t) for t in targets]
    x = images("vit")
    net.eval()
    with torch.no_grad():
        folded = plain.forward_head(plain.forward_features(x), pre_logits=True)
        assert torch.allclose(folded, net(x), atol=1e-5)


def test_lora_on_parts_of_split_attention_goes_through_peft() -> None:
    found = names_of("clip", {"lora": {"rank": 2, "targets": "qv"}}, "attn:0")
    layer = "vision_model.encoder.layers.0.self_attn"
    assert found == {f"{layer}.{part}_proj.lora_{x}.weight" for part in "qv" for x in "AB"}


def test_lora_on_parts_needs_attention() -> None:
    with pytest.raises(ModelError, match="nothing is left to train"):
        adapt("vit", {"lora": {"targets": "qv"}}, "mlp:all")


def test_adalora_spends_its_rank_within_the_budget() -> None:
    net, attached = adapt("vit", {"adalora": {"rank": 2, "start": 2.0}}, "attn:0+5", steps=20)
    (one,) = attached
    x = images("vit", 8)
    optimizer = torch.optim.SGD(one.trained.values(), lr=0.5)
    kept = []
    for step in range(1, 21):
        optimizer.zero_grad()
        (net(x).square().mean() + one.penalty()).backward()  # type: ignore[misc]
        optimizer.step()
        one.stepped(step)  # type: ignore[misc]
        values = [p for n, p in one.trained.items() if n.endswith("lora_E")]
        kept.append(sum(int((v != 0).sum()) for v in values))
    assert kept[0] == 4 * 4
    assert kept == sorted(kept, reverse=True)
    assert set(kept[-4:]) == {2 * 4}


def test_orthogonality_is_zero_for_orthogonal_frames_of_either_side() -> None:
    frame = torch.linalg.qr(torch.randn(8, 3))[0]
    own = {"a": torch.nn.Parameter(frame), "b": torch.nn.Parameter(frame.T)}
    assert float(orthogonality(own).detach()) == pytest.approx(0, abs=1e-5)
    own = {"a": torch.nn.Parameter(2 * torch.eye(3))}
    assert float(orthogonality(own).detach()) == pytest.approx(3 * 3**0.5)


def test_ia3_scales_inputs_of_the_last_layer_of_an_mlp() -> None:
    found = sizes("vit", "ia3", "block:0")
    hidden = base("vit")[0].net.blocks[0].mlp.fc2.in_features
    assert found["blocks.0.mlp.fc2.ia3_l"] == hidden
    assert found["blocks.0.attn.qkv.ia3_l"] == 3 * DIM


def test_vera_trains_two_vectors_a_layer() -> None:
    assert sizes("vit", {"vera": {"rank": 8}}, "attn:0") == {
        "blocks.0.attn.qkv.vera_lambda_b": 3 * DIM,
        "blocks.0.attn.qkv.vera_lambda_d": 8,
        "blocks.0.attn.proj.vera_lambda_b": DIM,
        "blocks.0.attn.proj.vera_lambda_d": 8,
    }


def test_bitfit_and_ln_tuning_train_tensors_of_the_architecture() -> None:
    block = "blocks.0."
    assert names_of("vit", "bitfit", "attn:0") == {
        f"{block}attn.qkv.bias",
        f"{block}attn.proj.bias",
    }
    assert names_of("vit", "ln_tuning", "block:0") == {
        f"{block}norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias")
    }
    assert "blocks.0.attn.q_bias" in names_of("eva", "bitfit", "attn:0")


def test_ssf_leaves_out_the_shift_where_a_layer_has_no_bias() -> None:
    found = names_of("resnet", "ssf", "block:1")
    assert "layer2.0.conv1.ssf.scale" in found
    assert "layer2.0.conv1.ssf.shift" not in found
    assert "layer2.0.bn1.ssf.shift" in found


def test_adaptformer_has_one_bottleneck_for_each_mlp() -> None:
    found = names_of("vit", {"adaptformer": {"width": 4}}, "mlp.fc1.bias:0,mlp:5")
    assert found == {
        f"blocks.{i}.mlp.adaptformer.{side}.{part}"
        for i in (0, 5)
        for side in ("down", "up")
        for part in ("weight", "bias")
    }


def test_prompts_stand_behind_the_class_token_and_leave_at_the_end() -> None:
    net, attached = adapt("vit", {"vpt": {"tokens": 3, "mode": "deep"}}, "norm1:2+4")
    assert {n: tuple(p.shape) for n, p in trained(attached).items()} == {
        "blocks.2.vpt.values": (1, 3, DIM),
        "blocks.4.vpt.values": (1, 3, DIM),
    }
    seen: dict[int, torch.Tensor] = {}
    for i, block in enumerate(net.net.blocks):
        block.attn.register_forward_hook(lambda m, given, out, i=i: seen.update({i: given[0]}))
    features = net.net.forward_features(images("vit"))
    lengths = [seen[i].shape[1] for i in range(6)]
    assert lengths == [5, 5, 8, 8, 8, 8]
    assert features.shape[1] == 5


def test_shallow_prompts_are_inserted_once() -> None:
    assert names_of("vit", {"vpt": {"mode": "shallow"}}, "block:1-4") == {"blocks.1.vpt.values"}


def test_rotary_positions_stay_with_the_image_tokens() -> None:
    net, _ = adapt("eva", {"vpt": {"tokens": 3}}, "attn:last-1")
    prefixes = [block.attn.num_prefix_tokens for block in net.net.blocks]
    assert prefixes == [1] * 11 + [4]
    session = base("eva")[0]
    assert {block.attn.num_prefix_tokens for block in session.net.blocks} == {1}


@pytest.mark.parametrize(
    ("family", "method", "rule", "words"),
    [
        ("vit", "lora", "norm:all", "{TYPE: direct}"),
        ("vit", {"norm": "lora"}, "block:all", "method: {norm: direct}"),
        ("vit", {"norm1+norm2": "ia3"}, "block:all", "adaptation.method.norm1+norm2"),
        ("vit", {"lora": {"rank": 65}}, "attn:all", "at most 64"),
        ("vit", {"adalora": {"rank": 50}}, "attn:all", "the rank at the start of adalora"),
        ("vit", {"vera": {"rank": 65}}, "attn:all", "at most 64"),
        ("vit", {"loha": {"rank": 65}}, "attn:all", "at most 64"),
        ("vit", {"fourierft": {"frequencies": 5000}}, "attn:all", "frequencies up to 4096"),
        ("vit", {"oft": {"block": 48}}, "attn:all", "a divisor of 64: [2, 4, 8, 16, 32, 64]"),
        ("vit", "bitfit", "attn.qkv.weight:all", "nothing is left to train"),
        ("vit", "ln_tuning", "attn:all", "nothing is left to train"),
        ("vit", "adaptformer", "attn:all", "beside the MLP"),
        ("vit", "vpt", "stem,pos", "nothing is left to train"),
        ("vit", "ssf", "attn.qkv.bias:all", "nothing is left to train"),
        ("resnet", "vera", "conv:0", "unit 'layer1.0.conv1.weight'"),
        ("resnet", "vpt", "conv:0", "needs a network of tokens"),
        ("convnext", "lora", "depthwise:0", "Conv2d (grouped convolution)"),
        ("resnet", "oft", "conv:0", "overlapping patches"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(
    family: str, method: Any, rule: str, words: str
) -> None:
    with pytest.raises(FairtuneError) as caught:
        adapt(family, method, rule)
    assert words in str(caught.value)


def test_convolutions_take_methods_of_convolutions() -> None:
    assert sizes("resnet", {"lora": {"rank": 2}}, "downsample:1") == {
        "layer2.0.downsample.0.lora_A.weight": 2 * 64,
        "layer2.0.downsample.0.lora_B.weight": 2 * 128,
    }
    assert names_of("convnext", {"depthwise": "loha", "mlp": "lora"}, "depthwise:0,mlp:0")


def test_methods_of_types_stand_side_by_side() -> None:
    method = {"attn": {"lora": {"rank": 2}}, "mlp": {"ia3": {}}, "stem": "bitfit"}
    net, attached = adapt("vit", method, "block:0,stem")
    names = set(trained(attached))
    assert "blocks.0.attn.qkv.lora_A.weight" in names
    assert "blocks.0.mlp.fc1.ia3_l" in names
    assert {"patch_embed.proj.bias", "blocks.0.norm1.weight"} <= names
    assert "cls_token" not in names
    shaken(attached)
    net.eval()
    plain = copy.deepcopy(net)
    for one in attached:
        if one.fold is not None:
            one.fold(plain.net)
    x = images("vit")
    with torch.no_grad():
        assert torch.allclose(plain(x), net(x), atol=1e-5)


@pytest.mark.parametrize(
    ("one", "other"),
    [("lora", "lora"), ("lora", "ia3"), ("adalora", "lora"), ("loha", "lokr"), ("vera", "vera")],
)
def test_two_methods_of_peft_are_both_at_work(one: str, other: str) -> None:
    method = {"attn": with_fields(one), "mlp": with_fields(other)}
    net, attached = adapt("vit", method, "attn:5,mlp:5")
    shaken(attached)
    net(images("vit")).square().mean().backward()
    for name, parameter in trained(attached).items():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


def test_a_weight_and_its_bias_may_train_by_different_methods() -> None:
    method = {"attn.qkv.weight": {"lora": {"rank": 2}}, "attn.qkv.bias": "direct"}
    names = names_of("vit", method, "attn.qkv.weight:0,attn.qkv.bias:0")
    assert names == {
        "blocks.0.attn.qkv.bias",
        "blocks.0.attn.qkv.lora_A.weight",
        "blocks.0.attn.qkv.lora_B.weight",
    }


def test_every_field_of_every_method_declares_its_search_range() -> None:
    from fairtune.config.registry import declared_dimensions

    for name in METHODS:
        cls = METHODS.get(name)
        assert set(declared_dimensions(cls)) == set(cls.model_fields), name
