"""OFT and BOFT: weights are rotated instead of added to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, TypeAlias

import pydantic

from fairtune.adaptation.attach import Attached, Context
from fairtune.adaptation.fields import Dropout
from fairtune.adaptation.methods import METHODS
from fairtune.config import Choice, Config
from fairtune.errors import ModelError

if TYPE_CHECKING:
    from fairtune.adaptation.layers import Layer

Block: TypeAlias = Annotated[int, pydantic.Field(ge=2, le=1024), Choice((4, 8, 16, 32))]


@METHODS.register("oft")
class Oft(Config):
    """Rotate the inputs of a layer, in blocks.

    `W' = W R`, `R` block-diagonal, each block `(I + Q)(I - Q)^-1` with `Q` skew-symmetric and zero
    at the start; as in OFTv2 the inverse is a Neumann series of five terms.

    Attributes:
        block: Side of the blocks; divides the inputs of every adapted layer.
    """

    paper: ClassVar[str] = "Qiu et al., OFT, NeurIPS 2023"
    formula: ClassVar[str] = "W' = W R, R = (I + Q)(I − Q)⁻¹"
    layers: ClassVar[str] = "linear, 1×1 convolution"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    block: Block = 32

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Wrap the layers of `units`.

        Raises:
            ModelError: A layer is not supported, its inputs are no multiple of `block`, or there
                is none.
        """
        from peft import OFTConfig, OFTModel

        from fairtune.adaptation.layers import CONV, LINEAR, adaptable, unsupported
        from fairtune.adaptation.through_peft import inject, pattern

        layers = adaptable("oft", units, context, {LINEAR, CONV})
        for layer in layers:
            if layer.sides[1] != layer.module.weight.shape[1]:  # type: ignore[index]
                why = ": peft folds overlapping patches, which is no rotation"
                raise unsupported("oft", layer, "linear, 1×1 convolution", why)
        _check_blocks("oft", self.block, layers)
        config = OFTConfig(
            r=0,
            oft_block_size=self.block,
            target_modules=pattern([layer.name for layer in layers]),
        )
        return inject(OFTModel, config, layers, context)[0]


@METHODS.register("boft")
class Boft(Config):
    """Rotate the inputs of a layer, in blocks, and scale its outputs.

    `W' = s (W R)`, `R` block-diagonal with Cayley blocks. The paper multiplies several such
    matrices with permutations between them; peft does so only where it can compile a CUDA
    extension, so that the same recipe would mean other numbers on another machine. One factor is
    used everywhere.

    Attributes:
        block: Side of the blocks; divides the inputs of every adapted layer.
        dropout: Share of the blocks that a step leaves unrotated.
    """

    paper: ClassVar[str] = "Liu et al., BOFT, ICLR 2024, with one butterfly factor"
    formula: ClassVar[str] = "W' = s ⊙ (W R), R = (I + Q)(I − Q)⁻¹"
    layers: ClassVar[str] = "linear, convolution"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    block: Block = 8
    dropout: Dropout = 0.0

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Wrap the layers of `units`.

        Raises:
            ModelError: A layer is not supported, its inputs are no multiple of `block`, or there
                is none.
        """
        from peft import BOFTConfig, BOFTModel

        from fairtune.adaptation.layers import CONV, LINEAR, adaptable
        from fairtune.adaptation.through_peft import inject, pattern, without_extension

        layers = adaptable("boft", units, context, {LINEAR, CONV})
        _check_blocks("boft", self.block, layers)
        config = BOFTConfig(
            boft_block_size=self.block,
            boft_n_butterfly_factor=1,
            boft_dropout=self.dropout,
            target_modules=pattern([layer.name for layer in layers]),
        )
        without_extension()
        made, _ = inject(BOFTModel, config, layers, context)
        return replace(made, undecayed=frozenset(n for n in made.trained if ".boft_s" in n))


def _check_blocks(method: str, block: int, layers: Sequence[Layer]) -> None:
    for layer in layers:
        inputs = layer.sides[1]
        if inputs % block:
            fitting = [b for b in range(2, min(inputs, 128) + 1) if inputs % b == 0]
            raise ModelError(
                f"the block of {method} does not divide the layer's inputs",
                where=f"unit '{layer.unit}'",
                found=block,
                allowed=f"a divisor of {inputs}: {fitting}",
            )
