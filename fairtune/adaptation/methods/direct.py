"""Direct fine-tuning: the masked tensors themselves train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fairtune.adaptation.methods import METHODS
from fairtune.config import Config

if TYPE_CHECKING:
    import torch


@METHODS.register("direct")
class Direct(Config):
    """Train every tensor of the masked units, as FairTune and selective fine-tuning do."""

    def tensors(self, net: torch.nn.Module, names: Sequence[str]) -> dict[str, torch.nn.Parameter]:
        """Return the parameters called `names`.

        Raises:
            KeyError: `net` has no parameter of that name.
        """
        known = dict(net.named_parameters())
        return {name: known[name] for name in names}
