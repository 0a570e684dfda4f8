"""A network cut behind a block gives, bit for bit, what the whole one gives."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from fairtune.models.backbone import Backbone

# Class token, registers without a class token, attention pooling, RMS norm, two class tokens,
# rotary positions alike for all blocks and mixed, a norm before the blocks.
VITS = (
    "test_vit",
    "test_vit2",
    "test_vit3",
    "test_vit4",
)


def built(name: str, **more: object) -> Backbone:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0, **more)
    return Backbone(net, int(net.num_features)).eval()


def others() -> dict[str, Backbone]:
    small = {"embed_dim": 32, "depth": 3, "num_heads": 2}
    return {
        "distilled": built("deit_tiny_distilled_patch16_224", img_size=32, **small),
        "eva": built("eva02_tiny_patch14_224", img_size=28, **small),
        "mixed": built("vit_small_patch16_rope_mixed_224", img_size=32, **small),
        "clip": built("vit_base_patch32_clip_224", img_size=64, **small),
        "dinov2": built("vit_small_patch14_dinov2", img_size=28, **small),
    }


def check(whole: Backbone, side: int) -> None:
    image = torch.randn(3, 3, side, side)
    with torch.no_grad():
        expected = whole.embed(image)
        assert whole.depth > 0
        for cut in range(1, whole.depth + 1):
            hidden = whole.front(image, cut)
            whole.starts_at = cut
            assert torch.equal(whole.embed(hidden), expected), cut
            whole.starts_at = 0
        assert torch.equal(whole.embed(image), expected)


@pytest.mark.parametrize("name", VITS)
def test_two_parts_are_the_whole(name: str) -> None:
    check(built(name, img_size=32), 32)


@pytest.mark.parametrize("name", ["distilled", "eva", "mixed", "clip", "dinov2"])
def test_two_parts_of_every_family_are_the_whole(name: str) -> None:
    side = {"eva": 28, "dinov2": 28, "clip": 64}.get(name, 32)
    check(others()[name], side)


def test_bf16_is_cut_as_well() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        check(built("test_vit", img_size=32), 32)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext"])
def test_what_has_no_such_split_says_so(name: str) -> None:
    backbone = built(name)
    assert backbone.depth == 0
    assert backbone.first_trained == 0


def test_the_first_block_that_trains() -> None:
    whole = built("test_vit", img_size=32)
    whole.requires_grad_(False)

    def first(*names: str) -> int:
        for name in names:
            whole.net.get_parameter(name).requires_grad_(True)
        found = whole.first_trained
        whole.requires_grad_(False)
        return found

    assert whole.first_trained == whole.depth == 6
    assert first("norm.weight") == 6
    assert first("blocks.4.mlp.fc1.bias") == 4
    assert first("norm.bias", "blocks.2.norm1.weight", "blocks.5.norm1.weight") == 2
    assert first("blocks.0.norm1.weight") == 0
    assert first("pos_embed", "blocks.5.norm1.weight") == 0
    assert first("patch_embed.proj.bias") == 0
    # Whatever a method adds beside the blocks may act before them.
    whole.net.register_parameter("prompts", nn.Parameter(torch.zeros(2)))
    assert first("prompts") == 0


def test_the_tensors_before_a_cut() -> None:
    whole = built("test_vit", img_size=32)
    before = whole.before(2)
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= set(before)
    assert any(name.startswith("blocks.1.") for name in before)
    assert not any(name.startswith(("blocks.2.", "norm")) for name in before)
    assert set(whole.before(None)) == set(whole.net.state_dict())
