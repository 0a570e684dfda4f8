"""LN-tuning: of the masked units only the normalisation layers train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fairtune.adaptation.attach import Attached, Context, nothing_left
from fairtune.adaptation.methods import METHODS
from fairtune.config import Config


@METHODS.register("ln_tuning")
class LnTuning(Config):
    """Train gain and bias of the normalisation layers among the masked units.

    The paper tunes LayerNorm; batch and group normalisation are taken likewise, with running
    statistics left as they are.
    """

    paper: ClassVar[str] = "Qi et al., Parameter-Efficient Tuning on Layer Normalization, 2022"
    formula: ClassVar[str] = "y = (g + Δg) (x − μ)/σ + (b + Δb)"
    layers: ClassVar[str] = "LayerNorm, RMSNorm, GroupNorm, BatchNorm"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Train the normalisation layers of `units`.

        Raises:
            ModelError: There is none among them.
        """
        from fairtune.adaptation.layers import is_norm

        names = [name for name in context.units.tensors(units) if is_norm(context.module_of(name))]
        if not names:
            why = "trains normalisation layers, and the masked units hold none"
            raise nothing_left("ln_tuning", why, context)
        return Attached({name: context.parameters[name] for name in names})
