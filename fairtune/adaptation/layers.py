"""Which layers a method finds among masked units, and what they are called in messages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fairtune.adaptation.attach import Context, nothing_left
from fairtune.errors import ModelError

LINEAR, CONV, GROUPED = "linear", "convolution", "grouped convolution"
INTERMEDIATE, OUTPUT = "intermediate", "output"
"""What a BERT calls the halves of its MLP; those of a Q-Former go on with `_query`."""

_SECOND = ("fc2", "w3", "c_proj", "lin2")


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer whose weight is masked.

    Attributes:
        name: Its path in the network.
        unit: The unit that its weight is in.
        module: The layer.
        kind: `linear`, `convolution` or `grouped convolution`; another class by its name.
        parent: The module that holds it.
    """

    name: str
    unit: str
    module: nn.Module
    kind: str
    parent: nn.Module

    @property
    def sides(self) -> tuple[int, int]:
        """Rows (outputs) and columns (inputs times kernel) of the weight as a matrix."""
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)
        return weight.shape[0], weight[0].numel()


def is_norm(module: nn.Module) -> bool:
    """Tell whether `module` normalises, whatever package its class is from."""
    known = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _BatchNorm)
    return isinstance(module, known) or "Norm" in type(module).__name__


def kind_of(module: nn.Module) -> str | None:
    """Return the kind of a layer with a weight matrix; None for any other module.

    A subclass that computes something else than its parent is called by its own name: what an
    adapter adds to it would not be what it computes.
    """
    if isinstance(module, nn.Linear):
        return LINEAR if type(module).forward is nn.Linear.forward else type(module).__name__
    if isinstance(module, nn.modules.conv._ConvNd):
        plain = type(module).forward is nn.Conv2d.forward and module.padding_mode == "zeros"
        if not plain:
            return type(module).__name__
        return CONV if module.groups == 1 else GROUPED
    return None


def is_second_of_mlp(name: str) -> bool:
    """Tell whether the layer called `name` is the last one of an MLP.

    A BERT has no module for its MLP: it is the layers `intermediate.dense` and `output.dense` of
    a block, the latter called as that of the block's attention is, `attention.output.dense`.
    """
    return name.rpartition(".")[2] in _SECOND or half_of_mlp(name) == OUTPUT


def half_of_mlp(name: str) -> str | None:
    """Return which half of a BERT's MLP the layer called `name` is, None where it is of none."""
    holder, _, last = name.rpartition(".")
    parent, _, half = holder.rpartition(".")
    half = half.split("_")[0]
    inside = last == "dense" and half in (INTERMEDIATE, OUTPUT)
    return half if inside and not parent.endswith("attention") else None


def masked_layers(units: Sequence[str], context: Context) -> list[Layer]:
    """Return the layers with a weight matrix among `units`, in the order of the network."""
    found: list[Layer] = []
    for unit in units:
        for tensor in context.units.parameters[unit]:
            name, _, last = tensor.rpartition(".")
            kind = kind_of(context.modules[name])
            if last == "weight" and kind is not None:
                parent = context.modules[name.rpartition(".")[0]]
                # torch's fused attention reads the weight and never calls the layer.
                bypassed = isinstance(parent, nn.MultiheadAttention)
                kind = type(parent).__name__ if bypassed else kind
                found.append(Layer(name, unit, context.modules[name], kind, parent))
    return found


def adaptable(
    method: str, units: Sequence[str], context: Context, kinds: Collection[str]
) -> list[Layer]:
    """Return the layers that `method` adapts.

    Norms, scales, biases and positions among the units are no such layers: they stay frozen, as
    they do for a coarse type such as `block`; alone they are an error.

    Args:
        method: Name of the method.
        units: Units of the placement.
        context: The network.
        kinds: Kinds that the method supports.

    Raises:
        ModelError: A layer is of another kind, or there is none.
    """
    layers = masked_layers(units, context)
    for layer in layers:
        if layer.kind not in kinds:
            raise unsupported(method, layer, sorted(kinds))
    if not layers:
        others = sorted({_class(t, context) for t in context.units.tensors(units)})
        why = f"adapts the weights of {' and '.join(sorted(kinds))} layers"
        raise nothing_left(method, why, context, found=others)
    return layers


def unsupported(method: str, layer: Layer, allowed: object, why: str = "") -> ModelError:
    """Return the error of a layer that `method` does not adapt."""
    return ModelError(
        f"{method} does not adapt this layer{why}",
        where=f"unit '{layer.unit}'",
        found=f"{type(layer.module).__name__} ({layer.kind})",
        allowed=allowed,
        todo="give its unit type another method, e.g. method: {TYPE: direct}",
    )


def call_through(layers: Sequence[Layer]) -> None:
    """Make attention call its fused `qkv` layer instead of reading the layer's weight.

    timm's EVA, BEiT and Swin v2 add a bias of their own and then never call the layer, so nothing
    that wraps it would act; their switch adds the bias afterwards, which is the same.
    """
    for layer in layers:
        if hasattr(layer.parent, "qkv_bias_separate"):
            layer.parent.qkv_bias_separate = True  # type: ignore[assignment]


def check_rank(method: str, rank: int, layers: Sequence[Layer], field: str = "rank") -> None:
    """Refuse a rank that a layer does not have.

    Raises:
        ModelError: `rank` is above the smaller side of a layer's weight.
    """
    for layer in layers:
        if rank > min(layer.sides):
            raise ModelError(
                f"the {field} of {method} is larger than the layer",
                where=f"unit '{layer.unit}'",
                found=rank,
                allowed=f"at most {min(layer.sides)} for a weight of {layer.sides} "
                f"({type(layer.module).__name__})",
            )


def unhook(module: nn.Module, hook: Callable[..., Any]) -> None:
    """Take `hook` off `module`; a handle would not survive the copy that is folded."""
    for key, held in list(module._forward_hooks.items()):
        if held is hook:
            del module._forward_hooks[key]


def _class(tensor: str, context: Context) -> str:
    module = context.module_of(tensor)
    return type(module).__name__ if tensor.endswith((".weight", ".bias")) else tensor
