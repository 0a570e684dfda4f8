"""AdaptFormer: a small bottleneck beside every MLP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import pydantic

from fairtune.adaptation.attach import Attached, Context
from fairtune.adaptation.fields import Dropout
from fairtune.adaptation.methods import METHODS
from fairtune.config import Choice, Config, Float


@METHODS.register("adaptformer")
class AdaptFormer(Config):
    """Add `scale * up(relu(down(x)))` to the output of each masked block's MLP.

    `x` is the MLP's input, after its norm. Any masked unit of an MLP gives that MLP a bottleneck;
    the MLP itself stays frozen. `up` starts at zero. Where a network scales the MLP's output
    (LayerScale), the bottleneck's is scaled with it.

    Attributes:
        width: Channels of the bottleneck.
        scale: Factor of its output.
        dropout: Between its two layers.
    """

    paper: ClassVar[str] = "Chen et al., AdaptFormer, NeurIPS 2022"
    formula: ClassVar[str] = "y = MLP(x) + s Up(ReLU(Down(x)))"
    layers: ClassVar[str] = "MLPs of linear layers in a block"
    merges: ClassVar[bool] = False
    starts_unchanged: ClassVar[bool] = True

    width: Annotated[int, pydantic.Field(ge=1, le=4096), Choice((8, 16, 32, 64))] = 64
    scale: Annotated[float, pydantic.Field(gt=0), Float(0.01, 1.0, log=True)] = 0.1
    dropout: Dropout = 0.1

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Put a bottleneck beside the MLPs of `units`.

        Raises:
            ModelError: The units belong to no MLP of linear layers.
        """
        from fairtune.adaptation import bottleneck

        return bottleneck.attach(
            "adaptformer", units, context, self.width, self.scale, self.dropout
        )
