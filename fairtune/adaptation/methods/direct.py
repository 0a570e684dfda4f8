"""Direct fine-tuning: the masked tensors themselves train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fairtune.adaptation.attach import Attached, Context
from fairtune.adaptation.methods import METHODS
from fairtune.config import Config


@METHODS.register("direct")
class Direct(Config):
    """Train every tensor of the masked units, as FairTune and selective fine-tuning do."""

    paper: ClassVar[str] = "Dutt et al., FairTune, ICLR 2024"
    formula: ClassVar[str] = "W ← W + ΔW, every masked tensor"
    layers: ClassVar[str] = "all"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Train the tensors of `units`."""
        names = context.units.tensors(units)
        return Attached({name: context.parameters[name] for name in names})
