"""A bottleneck beside an MLP (Chen et al., AdaptFormer, 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fairtune.adaptation.attach import Attached, Context, nothing_left
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


def attach(
    method: str, units: Sequence[str], context: Context, width: int, scale: float, dropout: float
) -> Attached:
    """Put a `Bottleneck` beside every MLP that `units` touch; return what trains.

    Raises:
        ModelError: They touch none, or one whose layers are not linear.
    """
    names = list(
        dict.fromkeys(
            name for t in context.units.tensors(units) if (name := _mlp_of(t)) is not None
        )
    )
    if not names:
        why = "goes beside the MLP of a block (`mlp`), and the masked units are in none"
        raise nothing_left(method, why, context, found=list(units)[:5])
    trained: dict[str, nn.Parameter] = {}
    for name in names:
        mlp = context.modules[name]
        first = next((m for m in mlp.modules() if isinstance(m, nn.Linear)), None)
        if first is None:
            raise ModelError(
                f"{method} does not adapt this layer",
                where=name,
                found=type(mlp).__name__,
                allowed="an MLP of linear layers",
                todo="give its unit type another method, e.g. method: {TYPE: direct}",
            )
        made = Bottleneck(first.in_features, width, scale, dropout).to(first.weight.device)
        mlp.add_module(SLOT, made)
        mlp.register_forward_hook(_beside)
        trained |= {f"{name}.{SLOT}.{n}": p for n, p in made.named_parameters()}
    return Attached(trained, cannot_fold="its bottlenecks hold a ReLU, which no weight can hold")


def _mlp_of(tensor: str) -> str | None:
    parts = tensor.split(".")[:-1]
    return ".".join(parts[: parts.index(MLP) + 1]) if MLP in parts else None


def _beside(module: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
    added: Tensor = module.get_submodule(SLOT)(given[0])
    return out + added.to(out.dtype)
