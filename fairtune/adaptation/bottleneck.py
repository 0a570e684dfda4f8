"""A bottleneck beside an MLP (Chen et al., AdaptFormer, 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fairtune.adaptation.attach import Attached, Context, nothing_left
from fairtune.adaptation.layers import INTERMEDIATE, OUTPUT, half_of_mlp
from fairtune.errors import ModelError

SLOT = "adaptformer"
MLP = "mlp"


class Bottleneck(nn.Module):
    """`scale * up(dropout(relu(down(x))))`.

    Args:
        channels: Of the MLP's input and output.
        width: Between the two layers.
        scale: Factor of the output.
        dropout: Between the two layers.
    """

    def __init__(self, channels: int, width: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale = scale
        self.down, self.up = nn.Linear(channels, width), nn.Linear(width, channels)
        self.act, self.dropout = nn.ReLU(), nn.Dropout(dropout)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(..., channels)` for inputs `(..., channels)`."""
        out: Tensor = self.up(self.dropout(self.act(self.down(x)))) * self.scale
        return out


@dataclass(frozen=True)
class _Place:
    """Where a bottleneck goes.

    Attributes:
        name: The module that it stands in: an MLP, or the second half of a BERT's.
        mlp: The module whose first layer has its inputs.
    """

    name: str
    mlp: str


def attach(
    method: str, units: Sequence[str], context: Context, width: int, scale: float, dropout: float
) -> Attached:
    """Put a `Bottleneck` beside every MLP that `units` touch; return what trains.

    Raises:
        ModelError: They touch none, or one whose layers are not linear.
    """
    tensors = context.units.tensors(units)
    places = dict.fromkeys(p for t in tensors if (p := _place_of(t, context)) is not None)
    if not places:
        why = "goes beside the MLP of a block (`mlp`), and the masked units are in none"
        raise nothing_left(method, why, context, found=list(units)[:5])
    trained: dict[str, nn.Parameter] = {}
    for place in places:
        module, mlp = context.modules[place.name], context.modules[place.mlp]
        first = next((m for m in mlp.modules() if isinstance(m, nn.Linear)), None)
        if first is None:
            raise ModelError(
                f"{method} does not adapt this layer",
                where=place.name,
                found=type(mlp).__name__,
                allowed="an MLP of linear layers",
                todo="give its unit type another method, e.g. method: {TYPE: direct}",
            )
        made = Bottleneck(first.in_features, width, scale, dropout).to(first.weight.device)
        module.add_module(SLOT, made)
        if place.name == place.mlp:
            module.register_forward_hook(_beside)
        else:
            module.register_forward_pre_hook(_into_residual)
        trained |= {f"{place.name}.{SLOT}.{n}": p for n, p in made.named_parameters()}
    return Attached(trained, cannot_fold="its bottlenecks hold a ReLU, which no weight can hold")


def _place_of(tensor: str, context: Context) -> _Place | None:
    """Return where the bottleneck of the MLP that `tensor` is in goes; None where it is in none.

    A BERT's second half is given the MLP's input as well, and normalises the sum: what is added
    to that input is added to the output.
    """
    parts = tensor.split(".")[:-1]
    if MLP in parts:
        name = ".".join(parts[: parts.index(MLP) + 1])
        return _Place(name, name)
    half = half_of_mlp(".".join(parts))
    if half is None:
        return None
    kind = parts[-2].removeprefix(half)
    first, second = (".".join([*parts[:-2], f"{h}{kind}"]) for h in (INTERMEDIATE, OUTPUT))
    normalises = hasattr(context.modules.get(second), "LayerNorm")
    return _Place(second, first) if normalises and first in context.modules else None


def _beside(module: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
    added: Tensor = module.get_submodule(SLOT)(given[0])
    return out + added.to(out.dtype)


def _into_residual(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    inner, x = given
    added: Tensor = module.get_submodule(SLOT)(x)
    return inner, x + added.to(x.dtype)
