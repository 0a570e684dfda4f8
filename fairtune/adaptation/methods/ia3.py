"""(IA)³: outputs, or inputs of the last layer of an MLP, are scaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from fairtune.adaptation.attach import Attached, Context
from fairtune.adaptation.methods import METHODS
from fairtune.config import Config


@METHODS.register("ia3")
class Ia3(Config):
    """Multiply by a learned vector, one at the start.

    The last layer of an MLP (`fc2`, `w3`, `c_proj`, `lin2`, a BERT's `output.dense`) is scaled at
    its inputs, every other layer at its outputs. The paper scales keys, values and inner
    activations of the MLP: mask these units for the same; on a fused `qkv` the query is scaled
    too.
    """

    paper: ClassVar[str] = "Liu et al., Few-Shot Parameter-Efficient Fine-Tuning, NeurIPS 2022"
    formula: ClassVar[str] = "y = l ⊙ (W x + b), in an MLP's last layer y = W (l ⊙ x) + b"
    layers: ClassVar[str] = "linear, convolution, grouped convolution"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Wrap the layers of `units`.

        Raises:
            ModelError: A layer is not supported, or there is none.
        """
        from peft import IA3Config, IA3Model

        from fairtune.adaptation.layers import (
            CONV,
            GROUPED,
            LINEAR,
            adaptable,
            is_second_of_mlp,
        )
        from fairtune.adaptation.through_peft import inject, pattern

        layers = adaptable("ia3", units, context, {LINEAR, CONV, GROUPED})
        names = [layer.name for layer in layers]
        inner = [
            layer.name for layer in layers if layer.kind == LINEAR and is_second_of_mlp(layer.name)
        ]
        config = IA3Config(
            target_modules=pattern(names),
            # An expression that matches nothing: peft wants one, and empty would match all.
            feedforward_modules=pattern(inner) if inner else r"(?!)",
        )
        made, _ = inject(IA3Model, config, layers, context)
        return replace(made, undecayed=frozenset(made.trained))
