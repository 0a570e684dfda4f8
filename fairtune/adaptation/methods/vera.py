"""VeRA: LoRA with shared random matrices that stay frozen, and two trained vectors a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import pydantic

from fairtune.adaptation.attach import Attached, Context
from fairtune.adaptation.fields import Dropout
from fairtune.adaptation.methods import METHODS
from fairtune.config import Choice, Config


@METHODS.register("vera")
class Vera(Config):
    """Train only the vectors `b` and `d` of `W' = W + diag(b) B diag(d) A`.

    `A` and `B` are drawn once from a fixed seed, shared by all layers of the placement and frozen;
    `b` is zero at the start and `d` 0.1.

    Attributes:
        rank: Rank of the shared matrices.
        dropout: Of the layer's input.
    """

    paper: ClassVar[str] = "Kopiczko et al., VeRA, ICLR 2024"
    formula: ClassVar[str] = "W' = W + diag(b) B diag(d) A"
    layers: ClassVar[str] = "linear"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    rank: Annotated[int, pydantic.Field(ge=1, le=4096), Choice((16, 64, 256))] = 64
    dropout: Dropout = 0.0

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Wrap the layers of `units`.

        Raises:
            ModelError: A layer is not linear, smaller than the rank, or there is none.
        """
        from peft import VeraConfig, VeraModel

        from fairtune.adaptation.layers import LINEAR, adaptable, check_rank
        from fairtune.adaptation.through_peft import inject, pattern

        layers = adaptable("vera", units, context, {LINEAR})
        check_rank("vera", self.rank, layers)
        config = VeraConfig(
            r=self.rank,
            vera_dropout=self.dropout,
            target_modules=pattern([layer.name for layer in layers]),
        )
        return inject(VeraModel, config, layers, context)[0]
