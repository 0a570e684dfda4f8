"""Tiny networks of every family that adaptation methods must work on, with random values."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fairtune.adaptation.attach import Attached
from fairtune.adaptation.placement import Methods
from fairtune.adaptation.rules import Rule
from fairtune.models import ModelSpec, Units, load
from fairtune.models.backbone import Backbone, build, describe
from fairtune.models.loaders.transformers_model import TransformersModel
from fairtune.training.net import adapted, set_modes

CLIP_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 16,
}


@dataclass(frozen=True)
class Family:
    """A small network of one family.

    Attributes:
        model: Shipped spec whose units it has.
        side: Of its images.
        rule: A mask with matrices, norms and biases.
        architecture: A smaller one than the spec's.
        loader: Its loader, where the size stands there.
    """

    model: str
    side: int
    rule: str
    architecture: str | None = None
    loader: Any = None

    @property
    def spec(self) -> ModelSpec:
        """The spec, made small."""
        spec = load(self.model)
        changes = {"architecture": self.architecture, "loader": self.loader}
        return spec.model_copy(update={k: v for k, v in changes.items() if v is not None})


FAMILIES = {
    "vit": Family("test_vit", 32, "block:0+last-1"),
    "swin": Family("swin_tiny_patch4_window7_224", 32, "block:0"),
    "eva": Family("eva02_small_patch14", 28, "block:0+last-1", "eva02_tiny_patch14_224"),
    "clip": Family("clip_vit_base_patch16", 32, "block:0+last-1", None,
                   TransformersModel(**CLIP_SIZES)),
    "resnet": Family("resnet18", 32, "block:1"),
    "convnext": Family("convnext_tiny", 32, "block:1", "test_convnext"),
}  # fmt: skip
FIELDS: dict[str, dict[str, Any]] = {
    "adalora": {"rank": 2},
    "vera": {"rank": 8},
    "fourierft": {"frequencies": 200},
    "oft": {"block": 8},
    "boft": {"block": 4},
    "vpt": {"tokens": 3},
    "adaptformer": {"width": 8, "dropout": 0.0},
}
"""Fields that fit networks this small; every other method takes its defaults."""


@functools.cache
def base(family: str) -> tuple[Backbone, Units]:
    """Return the frozen network and its units; only to be read."""
    spec, side = FAMILIES[family].spec, FAMILIES[family].side
    backbone = build(spec, side, None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in backbone.modules():
            # Random networks start many of these at zero or one, where a fault would not show.
            for name, parameter in module.named_parameters(recurse=False):
                if name in ("bias", "q_bias", "v_bias", "gamma") or parameter.ndim == 1:
                    parameter.data += 0.1 * torch.randn_like(parameter)
    return backbone.requires_grad_(False), describe(spec, side)


def images(family: str, count: int = 2) -> Tensor:
    side = FAMILIES[family].side
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, side, side, generator=generator)


def adapt(
    family: str, method: Any, rule: str | None = None, seed: int = 1, steps: int = 10
) -> tuple[Backbone, tuple[Attached, ...]]:
    """Return a private network with `method` (as a recipe writes it) at work, in training mode."""
    backbone, units = base(family)
    mask = Rule.parse(rule or FAMILIES[family].rule).mask(units).units
    placed = Methods.parse(method).placements(mask, units)
    made, attached = adapted(backbone, placed, units, steps, seed)
    set_modes(made)
    return made, attached


def trained(attached: tuple[Attached, ...]) -> dict[str, nn.Parameter]:
    return {name: p for one in attached for name, p in one.trained.items()}


def with_fields(method: str, **more: Any) -> Mapping[str, Any]:
    return {method: FIELDS.get(method, {}) | more}


def shaken(attached: tuple[Attached, ...], size: float = 0.05) -> None:
    """Move everything that trains away from where it started, the same way each time."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trained(attached).values():
            parameter += size * torch.randn(parameter.shape, generator=generator)
