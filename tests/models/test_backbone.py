from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairtune.config import Settings, settings
from fairtune.errors import ModelError
from fairtune.models import ModelSpec, load, names
from fairtune.models.backbone import Backbone, build, describe
from fairtune.models.weights import Weights, from_file, sized


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return settings({"FAIRTUNE_CACHE": str(tmp_path / "cache"), "FAIRTUNE_OFFLINE": "1"})


@pytest.fixture
def spec() -> ModelSpec:
    return load("test_vit")


@pytest.fixture
def stored(spec: ModelSpec, here: Settings, tmp_path: Path) -> Weights:
    file = tmp_path / "w.safetensors"
    save_file(spec.seeded(160, 3).state_dict(), file)
    return from_file(spec, file, here)


def image(spec: ModelSpec, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, spec.channels, side, side, generator=generator)


LARGE = ("vit_base_patch16_224", "vit_base_mae", "clip_vit_base_patch16", "resnet50",
         "blip_itm_base_coco", "blip2_itm_vit_g", "biomedclip", "clip_vit_b16", "clip_vit_b32",
         "clip_vit_l14", "medclip_vit", "medmae_vit_b16", "openclip_vit_b32_laion2b", "pubmedclip",
         "siglip_base_patch16_224")  # fmt: skip


@pytest.mark.parametrize("name", [n for n in names() if n not in LARGE])
def test_every_model_embeds_an_image(name: str) -> None:
    spec = load(name)
    side = max(64 // spec.image_size.multiple_of, 1) * spec.image_size.multiple_of
    backbone = build(spec, side, None)
    with torch.no_grad():
        out = backbone.embed(image(spec, side))
    assert out.shape == (2, backbone.dim)
    assert bool(torch.isfinite(out).all())
    assert not any(module.training for module in backbone.modules())
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert {p.device.type for p in backbone.parameters()} == {"cpu"}


@pytest.mark.parametrize(("name", "last"), [("resnet18", True), ("test_vit", False)])
def test_channels_are_last_in_convolutional_networks_alone(name: str, last: bool) -> None:
    backbone, x = build(load(name), 64, None), image(load(name), 64)
    given: list[torch.Tensor] = []
    convolution = next(m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda m, inputs, out: given.extend([*inputs, out]))
    with torch.no_grad():
        found = backbone.embed(x)
        plain = backbone.net.forward_features(x)  # type: ignore[operator]
        pooled = backbone.net.forward_head(plain, pre_logits=True)  # type: ignore[operator]
    assert [t.is_contiguous(memory_format=torch.channels_last) for t in given[:2]] == [last, last]
    torch.testing.assert_close(found, pooled, atol=1e-5, rtol=1e-4)


def test_random_initialisation_depends_on_the_seed_alone(spec: ModelSpec) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first, again, other = (build(spec, 64, None, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    x = image(spec, 64)
    with torch.no_grad():
        assert torch.equal(first(x), again(x))
        assert not torch.equal(first(x), other(x))


def test_a_stored_file_gives_what_timm_itself_gives(
    spec: ModelSpec, stored: Weights, tmp_path: Path
) -> None:
    x = image(spec, 64)
    theirs = spec.filled(64, tmp_path / "w.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(build(spec, 64, stored).embed(x), theirs(x))


def test_parameters_are_private_maps_of_one_file(spec: ModelSpec, stored: Weights) -> None:
    first, second = build(spec, 64, stored), build(spec, 64, stored)
    name = "blocks.0.norm1.weight"
    assert all(p.requires_grad and p.is_leaf for p in first.parameters())
    with torch.no_grad():
        first.tensors()[name].add_(1.0)
    assert not torch.equal(first.tensors()[name], second.tensors()[name])
    on_disk = load_file(sized(spec, 64, stored))[name]
    assert torch.equal(second.tensors()[name], on_disk)


def test_the_second_network_is_built_at_once(spec: ModelSpec, stored: Weights) -> None:
    build(spec, 64, stored)
    start = time.perf_counter()
    build(spec, 64, stored)
    assert time.perf_counter() - start < 1.0


def test_a_file_removed_by_the_store_is_made_again(spec: ModelSpec, stored: Weights) -> None:
    x = image(spec, 64)
    first = build(spec, 64, stored)
    sized(spec, 64, stored).unlink()
    with torch.no_grad():
        assert torch.equal(first(x), build(spec, 64, stored)(x))


def test_buffers_that_no_file_holds_are_computed(spec: ModelSpec, here: Settings) -> None:
    # A relative position index is computed by the constructor and stored in no state dict.
    relative = spec.model_copy(update={"architecture": "test_vit_relpos"})
    net = relative.seeded(64, 0)
    kept = [n for n, _ in net.named_buffers() if n not in net.state_dict()]
    file = here.cache.parent / "relative.safetensors"
    save_file(net.state_dict(), file)
    backbone = build(relative, 64, from_file(relative, file, here))
    assert kept, "the architecture no longer shows what this test is about"
    assert not any(b.is_meta for b in backbone.buffers())
    with torch.no_grad():
        assert torch.equal(backbone(image(spec, 64)), net.eval()(image(spec, 64)))


def test_an_image_size_between_the_steps_is_refused(spec: ModelSpec) -> None:
    with pytest.raises(ModelError, match="use 48 or 64"):
        build(spec, 50, None)
    with pytest.raises(ModelError, match="multiples of 16"):
        describe(spec, 50)


def test_an_unknown_architecture_suggests_the_closest(spec: ModelSpec) -> None:
    with pytest.raises(ModelError, match="did you mean 'test_vit'"):
        describe(spec.model_copy(update={"architecture": "test_vitt"}))


def test_gradients_reach_every_parameter(spec: ModelSpec) -> None:
    backbone: Backbone = build(spec, 64, None)
    backbone.embed(image(spec, 64)).square().sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.needs("shared-weights")
def test_real_features_equal_those_of_timm(
    shared_weights: Path, here: Settings, tmp_path: Path
) -> None:
    import timm

    spec = load("vit_small_dinov2")
    ours = build(spec, 112, from_file(spec, shared_weights, here))
    single = tmp_path / "single.safetensors"
    save_file({n: t.float() for n, t in load_file(shared_weights).items()}, single)
    x = image(spec, 112)
    for file, tolerance in ((single, 0.0), (shared_weights, 2e-3)):
        theirs = timm.create_model(
            spec.architecture,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(file)},
            img_size=112,
            num_classes=0,
        ).eval()
        with torch.no_grad():
            difference = (ours.embed(x) - theirs(x)).abs().max()
        # Half precision differs: timm rounds the resampled positions to the file's type again.
        assert difference <= tolerance
