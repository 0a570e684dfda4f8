"""Adaptation methods: how the units of a mask train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from fairtune.config import Config, Registry

if TYPE_CHECKING:
    import torch

METHODS: Registry[Config] = Registry(
    "adaptation method",
    "fairtune.adaptation.methods",
    later=(
        "bitfit",
        "ln_tuning",
        "lora",
        "rslora",
        "dora",
        "adalora",
        "loha",
        "lokr",
        "oft",
        "boft",
        "ia3",
        "vera",
        "fourierft",
        "ssf",
        "adaptformer",
        "vpt",
    ),
)


@runtime_checkable
class Method(Protocol):
    """How the tensors of a mask train."""

    def tensors(self, net: torch.nn.Module, names: Sequence[str]) -> dict[str, torch.nn.Parameter]:
        """Return the parameters to train, by name, for the masked tensors `names` of `net`."""
