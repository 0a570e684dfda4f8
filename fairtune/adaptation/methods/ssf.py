"""SSF: features are scaled and shifted after every adapted layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fairtune.adaptation.attach import Attached, Context
from fairtune.adaptation.methods import METHODS
from fairtune.config import Config


@METHODS.register("ssf")
class Ssf(Config):
    """Follow every layer by `y = scale * x + shift`, one value of each per channel.

    Deviations: scale and shift start at 1 and 0 instead of N(1, 0.02²) and N(0, 0.02²), so that
    the network starts as it was pretrained; a layer without a bias gets no shift, so that the
    whole folds into plain weights.
    """

    paper: ClassVar[str] = "Lian et al., Scaling & Shifting Your Features, NeurIPS 2022"
    formula: ClassVar[str] = "y = γ ⊙ x + β after the layer"
    layers: ClassVar[str] = "linear, convolution, grouped convolution, normalisation"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Follow the layers of `units`.

        Raises:
            ModelError: A layer is not supported, or there is none.
        """
        from fairtune.adaptation import scale_shift

        return scale_shift.attach("ssf", units, context)
