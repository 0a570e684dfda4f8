"""The net of one run: frozen tensors it shares, its own copy of what trains, the modes of both."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fairtune.adaptation.attach import Attached, Context
from fairtune.adaptation.placement import METHOD, Placement
from fairtune.errors import ModelError
from fairtune.models.backbone import Backbone
from fairtune.models.net import Net, of_head
from fairtune.models.units import Units
from fairtune.training.recipe import Recipe, Seeds

if TYPE_CHECKING:
    from fairtune.data.prompts import ClassPrompts
    from fairtune.training.ground import Ground


def build_net(
    recipe: Recipe, seeds: Seeds, ground: Ground, prompts: ClassPrompts | None = None
) -> tuple[Net, dict[str, nn.Parameter]]:
    """Return a net whose trained tensors are its own, and these tensors by name.

    Backbone tensors that train directly keep the names of the architecture, what a method adds is
    named by its layer (`blocks.3.attn.qkv.lora_A.weight`), and the head's are `head.weight` and
    `head.bias`. What does not train is the session's.

    Args:
        recipe: A resolved recipe.
        seeds: Seeds of the run.
        ground: Data and model.
        prompts: What classes are called, in place of the data set's own.

    Raises:
        ModelError: A method does not support a layer of its placement, or has nothing to train.
    """
    placed = recipe.adaptation.method.placements(ground.mask(recipe).units, ground.units)
    rows, images = len(ground.fit_rows(recipe)), recipe.optim.batch_size * recipe.optim.accumulate
    steps = max(1, math.ceil(rows / images)) * recipe.optim.epochs
    backbone, attached = adapted(ground.backbone, placed, ground.units, steps, seeds.init)
    generator = torch.Generator().manual_seed(seeds.init)
    question = ground.question(recipe, prompts)
    net = recipe.usage.build(backbone, question, generator).to(ground.device)
    net.attached = attached
    trained = {name: p for one in attached for name, p in one.trained.items()}
    return net, trained | {f"head.{name}": p for name, p in net.head.named_parameters()}


def adapted(
    backbone: Backbone, placed: Sequence[Placement], units: Units, steps: int, seed: int
) -> tuple[Backbone, tuple[Attached, ...]]:
    """Return a backbone with the methods of `placed` at work, and these.

    Args:
        backbone: The pretrained one, frozen; the copy shares every tensor that does not train.
        placed: Methods and their units.
        units: Units of the backbone.
        steps: Optimiser steps of the whole run.
        seed: Of what methods draw; the caller's RNG is not moved.

    Raises:
        ModelError: A method does not support a layer of its placement, or has nothing to train.
    """
    shared = {id(p): p for p in backbone.parameters()}
    memo: dict[int, object] = dict(shared)
    mine = copy.deepcopy(backbone, memo)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = _attach(mine, placed, units, steps)
    named = {name: p for one in made for name, p in one.trained.items()}
    own = {i: nn.Parameter(p.detach().clone()) for p in named.values() if (i := id(p)) in shared}
    _put(own, mine)
    trained = {name: own.get(id(p), p) for name, p in named.items()}
    for parameter in trained.values():
        parameter.requires_grad_(True)
    return mine, tuple(
        replace(one, trained={name: trained[name] for name in one.trained}) for one in made
    )


def _attach(
    backbone: Backbone, placed: Sequence[Placement], units: Units, steps: int
) -> tuple[Attached, ...]:
    context = Context.of(backbone.net, units, steps)
    made: list[Attached] = []
    for number, placement in enumerate(placed):
        where = METHOD if placement.type is None else f"{METHOD}.{placement.type}"
        made.append(
            placement.method.attach(placement.units, replace(context, number=number, where=where))
        )
    return tuple(made)


def _put(own: dict[int, nn.Parameter], net: nn.Module) -> None:
    """Put copies, by the identity of their originals, where the originals are in `net`."""
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in own:
                module.register_parameter(name, own[id(parameter)])


def never_decayed(net: Net) -> frozenset[str]:
    """Return the trained tensors without weight decay besides vectors."""
    own = (one.undecayed for one in net.attached)
    return frozenset(net.backbone.never_decayed).union(*own)


def penalty(net: Net) -> Tensor | None:
    """Return what the methods at work add to the training loss; None for nothing."""
    terms = [one.penalty() for one in net.attached if one.penalty is not None]
    return torch.stack(terms).sum() if terms else None


def after_step(net: Net, step: int) -> None:
    """Tell the methods at work that optimiser step `step`, counted from 1, was made.

    Gradients are still those of the step.

    Raises:
        ModelError: In the first step no gradient reached what a method added: the network does
            not call the layer that it was added to.
    """
    for one in net.attached:
        dead = [name for name, p in one.trained.items() if p.grad is None]
        if step == 1 and one.adds and dead:
            raise ModelError(
                "no gradient reaches what the method added: the network bypasses these layers",
                found=dead[:5],
                todo="give their unit type another method, e.g. method: {TYPE: direct}",
            )
        if one.stepped is not None:
            one.stepped(step)


def methods_state(net: Net) -> list[dict[str, Any] | None]:
    """Return what the methods at work remember besides trained tensors, in their order."""
    return [None if one.state is None else one.state() for one in net.attached]


def load_methods_state(net: Net, state: Sequence[dict[str, Any] | None]) -> None:
    """Give the methods at work back what `methods_state` returned."""
    for one, held in zip(net.attached, state, strict=True):
        if one.load_state is not None and held is not None:
            one.load_state(held)


def trained_size(trained: dict[str, nn.Parameter]) -> int:
    """Return the number of trained values, without the head."""
    return sum(p.numel() for name, p in trained.items() if not of_head(name))


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
