"""BitFit: of the masked units only the biases train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fairtune.adaptation.attach import Attached, Context, nothing_left
from fairtune.adaptation.methods import METHODS
from fairtune.config import Config


@METHODS.register("bitfit")
class BitFit(Config):
    """Train the bias vectors of the masked units; their other tensors stay frozen.

    A bias is a tensor called `bias` or `..._bias`. Units that hold weights alone have none.
    """

    paper: ClassVar[str] = "Ben Zaken et al., BitFit, ACL 2022"
    formula: ClassVar[str] = "y = W x + (b + Δb)"
    layers: ClassVar[str] = "every layer with a bias"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Train the biases of `units`.

        Raises:
            ModelError: The units hold no bias.
        """
        names = [n for n in context.units.tensors(units) if _is_bias(n)]
        if not names:
            raise nothing_left("bitfit", "trains biases, and the masked units hold none", context)
        return Attached({name: context.parameters[name] for name in names})


def _is_bias(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last == "bias" or last.endswith("_bias")
