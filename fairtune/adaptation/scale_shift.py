"""Scale and shift of a layer's output, and their folding into the layer (Lian et al., 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fairtune.adaptation.attach import Attached, Context, nothing_left
from fairtune.adaptation.layers import (
    CONV,
    GROUPED,
    LINEAR,
    call_through,
    is_norm,
    masked_layers,
    unhook,
    unsupported,
)

SLOT = "ssf"
KINDS = (LINEAR, CONV, GROUPED)


class ScaleShift(nn.Module):
    """`y = scale * x + shift` along one axis.

    Args:
        channels: Length of that axis.
        axis: 1 for feature maps `(batch, channels, ...)`, -1 for tokens `(..., channels)`.
        shifts: Whether there is a shift.
    """

    def __init__(self, channels: int, axis: int, shifts: bool) -> None:
        super().__init__()
        self.axis = axis
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels)) if shifts else None

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of `x`."""
        shape = [1] * x.ndim
        shape[self.axis] = -1
        out = x * self.scale.view(shape)
        return (out if self.shift is None else out + self.shift.view(shape)).to(x.dtype)


def attach(method: str, units: Sequence[str], context: Context) -> Attached:
    """Follow every layer and norm of `units` by a `ScaleShift`; return what trains.

    Raises:
        ModelError: A layer is not supported, or there is none.
    """
    names: dict[str, nn.Module] = {}
    layers = masked_layers(units, context)
    for layer in layers:
        if layer.kind not in KINDS:
            raise unsupported(method, layer, KINDS)
        names[layer.name] = layer.module
    for tensor in context.units.tensors(units):
        module = context.module_of(tensor)
        if tensor.endswith(".weight") and _is_plain_norm(module):
            names[tensor.rpartition(".")[0]] = module
    if not names:
        why = "follows layers and norms whose weight is masked"
        raise nothing_left(method, why, context, found=list(units)[:5])
    call_through(layers)
    trained: dict[str, nn.Parameter] = {}
    for name, module in names.items():
        weight = module.weight
        assert isinstance(weight, Tensor)
        shifts = getattr(module, "bias", None) is not None
        made = ScaleShift(weight.shape[0], _axis(module), shifts).to(weight.device)
        module.add_module(SLOT, made)
        module.register_forward_hook(_follow)
        trained |= {f"{name}.{SLOT}.{n}": p for n, p in made.named_parameters()}
    return Attached(trained, partial(_fold, list(names)))


def _is_plain_norm(module: nn.Module) -> bool:
    # timm's norms that end in an activation cannot take a scale into their gain.
    act = getattr(module, "act", None)
    return is_norm(module) and isinstance(act, nn.Identity | None)


def _axis(module: nn.Module) -> int:
    maps = (nn.modules.conv._ConvNd, nn.GroupNorm, _BatchNorm)
    return 1 if isinstance(module, maps) or type(module).__name__.endswith("Norm2d") else -1


def _follow(module: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
    followed: Tensor = module.get_submodule(SLOT)(out)
    return followed


def _fold(names: Sequence[str], net: nn.Module) -> None:
    for name in names:
        layer = net.get_submodule(name)
        made, weight = layer.get_submodule(SLOT), layer.weight
        assert isinstance(made, ScaleShift)
        assert isinstance(weight, Tensor)
        with torch.no_grad():
            weight *= made.scale.view(-1, *[1] * (weight.ndim - 1))
            if made.shift is not None:
                bias = layer.bias
                assert isinstance(bias, Tensor)
                bias *= made.scale
                bias += made.shift
        unhook(layer, _follow)
        delattr(layer, SLOT)
