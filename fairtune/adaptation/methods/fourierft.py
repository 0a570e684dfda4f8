"""FourierFT: the update is an inverse Fourier transform of a few trained coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import pydantic

from fairtune.adaptation.attach import Attached, Context
from fairtune.adaptation.methods import METHODS
from fairtune.config import Choice, Config, Float


@METHODS.register("fourierft")
class FourierFt(Config):
    """Train `frequencies` entries of the spectrum of a layer's update.

    `W' = W + scale Re(IFFT2(S))`, `S` `(out, in)` zero outside entries drawn from a fixed seed.
    The paper starts the coefficients at N(0, 1); here they start at zero, so that the network
    starts as it was pretrained.

    Attributes:
        frequencies: Trained entries of every layer.
        scale: Factor of the update.
    """

    paper: ClassVar[str] = "Gao et al., FourierFT, ICML 2024, coefficients started at zero"
    formula: ClassVar[str] = "W' = W + α Re(IFFT₂(S)), S sparse"
    layers: ClassVar[str] = "linear"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    frequencies: Annotated[int, pydantic.Field(ge=1), Choice((500, 1000, 3000))] = 1000
    scale: Annotated[float, pydantic.Field(gt=0), Float(30.0, 500.0, log=True)] = 150.0

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Wrap the layers of `units`.

        Raises:
            ModelError: A layer is not linear, has fewer entries than `frequencies`, or there is
                none.
        """
        from peft import FourierFTConfig, FourierFTModel

        from fairtune.adaptation.layers import LINEAR, adaptable, unsupported
        from fairtune.adaptation.through_peft import inject, pattern

        layers = adaptable("fourierft", units, context, {LINEAR})
        for layer in layers:
            rows, columns = layer.sides
            if self.frequencies > rows * columns:
                why = f": its weight has fewer than {self.frequencies} entries"
                raise unsupported("fourierft", layer, f"frequencies up to {rows * columns}", why)
        config = FourierFTConfig(
            n_frequency=self.frequencies,
            scaling=self.scale,
            init_weights=True,
            target_modules=pattern([layer.name for layer in layers]),
        )
        return inject(FourierFTModel, config, layers, context)[0]
