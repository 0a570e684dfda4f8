"""LoRA on the query, key and value parts of attention, fused into one layer or split into three.

peft wraps whole layers, and timm's `vit_*` hold the three in one `qkv`; so the fused case is
our own: a pair of thin matrices for each named part (Hu et al., ICLR 2022, equation 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtune.adaptation.attach import Attached, Context, nothing_left
from fairtune.adaptation.layers import (
    LINEAR,
    Layer,
    call_through,
    check_rank,
    masked_layers,
    unhook,
    unsupported,
)

LETTERS = "qkv"
FUSED = "qkv"
SPLIT = {
    **dict.fromkeys(("q", "q_proj", "query"), "q"),
    **dict.fromkeys(("k", "k_proj", "key"), "k"),
    **dict.fromkeys(("v", "v_proj", "value"), "v"),
}
SLOT = "lora_parts"


@dataclass(frozen=True)
class Parts:
    """The attention layers of a placement.

    Attributes:
        fused: Layers that hold query, key and value one below the other.
        split: Layers that hold one wanted part each.
    """

    fused: tuple[Layer, ...] = ()
    split: tuple[Layer, ...] = ()


def parts(method: str, wanted: str, units: Sequence[str], context: Context) -> Parts:
    """Return the layers of `units` that hold the parts named by the letters `wanted`.

    Raises:
        ModelError: No such layer is masked, or it is not linear.
    """
    layers = masked_layers(units, context)
    named = [(layer.name.rpartition(".")[2], layer) for layer in layers]
    fused = tuple(layer for last, layer in named if last == FUSED)
    split = tuple(layer for last, layer in named if SPLIT.get(last, "-") in wanted)
    for layer in (*fused, *split):
        if layer.kind != LINEAR:
            raise unsupported(method, layer, [LINEAR])
    if not fused and not split:
        why = f"with targets: {wanted} adapts attention's {', '.join(wanted)} layers"
        found = sorted({last for last, _ in named}) or "no layer with a weight"
        raise nothing_left(method, why, context, found=found)
    return Parts(fused, split)


class Slices(nn.Module):
    """Updates of some of the three parts of a fused layer.

    Args:
        wanted: Letters of the parts.
        sides: `(3 * dim, in)` of the layer's weight.
        rank: Rank of every part's update.
        scale: Factor of the update.
        dropout: Of the layer's input.
    """

    def __init__(
        self, wanted: str, sides: tuple[int, int], rank: int, scale: float, dropout: float
    ) -> None:
        super().__init__()
        self.wanted, self.scale = wanted, scale
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.down = nn.Parameter(torch.empty(len(wanted), rank, sides[1]))
        self.up = nn.Parameter(torch.zeros(len(wanted), sides[0] // 3, rank))
        for matrix in self.down:
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Return the update `(..., 3 * dim)` of the output for inputs `(..., in)`."""
        x = self.dropout(x)
        dim = self.up.shape[1]
        made = []
        for letter in LETTERS:
            if letter in self.wanted:
                i = self.wanted.index(letter)
                thin = functional.linear(x, self.down[i])
                made.append(functional.linear(thin, self.up[i]) * self.scale)
            else:
                made.append(x.new_zeros(*x.shape[:-1], dim))
        return torch.cat([part.to(made[LETTERS.index(self.wanted[0])].dtype) for part in made], -1)

    def delta(self) -> Tensor:
        """Return the update `(3 * dim, in)` of the weight."""
        dim, inputs = self.up.shape[1], self.down.shape[2]
        blocks = {
            letter: self.up[i] @ self.down[i] * self.scale for i, letter in enumerate(self.wanted)
        }
        zero = self.up.new_zeros(dim, inputs)
        return torch.cat([blocks.get(letter, zero) for letter in LETTERS])


def sliced(
    method: str,
    layers: Sequence[Layer],
    wanted: str,
    rank: int,
    scale: float,
    dropout: float,
) -> Attached:
    """Give every fused layer its `Slices`; return what trains.

    Raises:
        ModelError: A layer does not hold three equal parts, or is smaller than the rank.
    """
    for layer in layers:
        if layer.sides[0] % 3:
            raise unsupported(method, layer, [LINEAR], ": its outputs are no three equal parts")
    check_rank(method, rank, layers)
    call_through(layers)
    trained: dict[str, nn.Parameter] = {}
    for layer in layers:
        weight = layer.module.weight
        assert isinstance(weight, Tensor)
        made = Slices(wanted, layer.sides, rank, scale, dropout).to(weight.device)
        layer.module.add_module(SLOT, made)
        layer.module.register_forward_hook(_add)
        trained |= {f"{layer.name}.{SLOT}.{n}": p for n, p in made.named_parameters()}
    return Attached(trained, partial(_fold, [layer.name for layer in layers]))


def _add(module: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
    made = module.get_submodule(SLOT)
    update: Tensor = made(given[0])
    return out + update.to(out.dtype)


def _fold(names: Sequence[str], net: nn.Module) -> None:
    for name in names:
        layer = net.get_submodule(name)
        made, weight = layer.get_submodule(SLOT), layer.weight
        assert isinstance(made, Slices)
        assert isinstance(weight, Tensor)
        with torch.no_grad():
            weight += made.delta()
        unhook(layer, _add)
        delattr(layer, SLOT)
