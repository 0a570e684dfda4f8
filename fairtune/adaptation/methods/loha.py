"""LoHa and LoKr: updates as Hadamard and as Kronecker products of small matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import pydantic

from fairtune.adaptation.attach import Attached, Context
from fairtune.adaptation.fields import Alpha, Dropout, Rank
from fairtune.adaptation.methods import METHODS
from fairtune.config import Choice, Config


@METHODS.register("loha")
class LoHa(Config):
    """Add the element-wise product of two low-rank matrices, of rank up to `rank²`.

    `W' = W + (alpha/rank) (B1 A1) * (B2 A2)`, `A2` zero at the start.

    Attributes:
        rank: Rank of each of the two.
        alpha: The update is multiplied by `alpha/rank`.
        dropout: Of rows of the update.
    """

    paper: ClassVar[str] = "Hyeon-Woo et al., FedPara, ICLR 2022"
    formula: ClassVar[str] = "W' = W + (α/r) (B₁A₁) ⊙ (B₂A₂)"
    layers: ClassVar[str] = "linear, convolution, grouped convolution"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    rank: Rank = 8
    alpha: Alpha = 8
    dropout: Dropout = 0.0

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Wrap the layers of `units`.

        Raises:
            ModelError: A layer is not supported, smaller than the rank, or there is none.
        """
        from peft import LoHaConfig, LoHaModel

        return _inject("loha", self, LoHaModel, LoHaConfig, units, context)


@METHODS.register("lokr")
class LoKr(Config):
    """Add a Kronecker product of a small matrix and a low-rank one.

    `W' = W + (alpha/rank) C ⊗ (B A)`, `C` zero at the start. The sides of `C` are the divisors of
    the weight's sides next below their square roots, or `factor`; where `rank` is at least half of
    the second matrix's longer side that one is a whole matrix.

    Attributes:
        rank: Rank of the second matrix.
        alpha: The update is multiplied by `alpha/rank`.
        factor: Largest side of `C`; 0 for the square root of the weight's side.
        dropout: Of rows of the update.
    """

    paper: ClassVar[str] = "Edalati et al., KronA, 2022; Yeh et al., LyCORIS, ICLR 2024"
    formula: ClassVar[str] = "W' = W + (α/r) C ⊗ (B A)"
    layers: ClassVar[str] = "linear, convolution, grouped convolution"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    rank: Rank = 8
    alpha: Alpha = 8
    factor: Annotated[int, pydantic.Field(ge=0), Choice((0, 4, 8))] = 0
    dropout: Dropout = 0.0

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Wrap the layers of `units`.

        Raises:
            ModelError: A layer is not supported, smaller than the rank, or there is none.
        """
        from peft import LoKrConfig, LoKrModel

        factor = {"decompose_factor": self.factor or -1}
        return _inject("lokr", self, LoKrModel, LoKrConfig, units, context, **factor)


def _inject(
    name: str,
    fields: Any,
    tuner: Any,
    config: Any,
    units: Sequence[str],
    context: Context,
    **more: Any,
) -> Attached:
    from fairtune.adaptation.layers import CONV, GROUPED, LINEAR, adaptable, check_rank
    from fairtune.adaptation.through_peft import inject, pattern

    layers = adaptable(name, units, context, {LINEAR, CONV, GROUPED})
    check_rank(name, fields.rank, layers)
    made = config(
        r=fields.rank,
        alpha=fields.alpha,
        rank_dropout=fields.dropout,
        target_modules=pattern([layer.name for layer in layers]),
        **more,
    )
    return inject(tuner, made, layers, context)[0]
