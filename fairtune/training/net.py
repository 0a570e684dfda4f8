"""The net of one run: frozen tensors it shares, its own copy of what trains, the modes of both."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fairtune.models.net import Net
from fairtune.training.recipe import Recipe, Seeds

if TYPE_CHECKING:
    from fairtune.training.session import Ground


def build_net(recipe: Recipe, seeds: Seeds, ground: Ground) -> tuple[Net, dict[str, nn.Parameter]]:
    """Return a net whose masked tensors and head are its own, and these tensors by name.

    Backbone tensors keep the names of the architecture; the head's are `head.weight` and
    `head.bias`.
    """
    names = [t for unit in recipe.adaptation.mask for t in ground.units.parameters[unit]]
    trained_names = set(names)
    shared = ground.backbone
    memo: dict[int, object] = {
        id(p): p for name, p in shared.net.named_parameters() if name not in trained_names
    }
    generator = torch.Generator().manual_seed(seeds.init)
    net = recipe.usage.build(
        copy.deepcopy(shared, memo), ground.task, ground.outputs, generator
    ).to(ground.device)
    trained = dict(recipe.adaptation.method.tensors(net.backbone.net, names))
    for parameter in trained.values():
        parameter.requires_grad_(True)
    trained |= {f"head.{name}": p for name, p in net.head.named_parameters()}
    return net, trained


def set_modes(module: nn.Module, inherited: bool = True) -> None:
    """Put modules in training mode only where something inside trains.

    Batch normalisation stays in evaluation mode: its running statistics are in no unit, so no
    mask may change them; they are those of pretraining.
    """
    parameters = list(module.parameters())
    active = any(p.requires_grad for p in parameters) if parameters else inherited
    module.training = active and not isinstance(module, _BatchNorm)
    for child in module.children():
        set_modes(child, active)
