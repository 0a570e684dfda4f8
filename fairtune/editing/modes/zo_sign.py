"""Two-point estimates, of which only the signs are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Config, Float
from fairtune.editing import MODES
from fairtune.editing.fields import Mu, Samples

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from fairtune.editing import Asked, Optimiser
    from fairtune.editing.zeroth import Slope


@MODES.register("zo_sign")
class ZoSign(Config):
    """Step down the signs of the estimate g of `two_point`: x <- x - lr sign(g).

    Every pixel is moved by exactly `lr`, so that after T steps none is further than T lr away.

    Attributes:
        mu: How far away a pixel is looked at, root mean square.
        samples: q, directions of a step.
        lr: By how much a step moves every pixel.
    """

    paper: ClassVar[str] = "Liu et al., signSGD via Zeroth-Order Oracle, ICLR 2019"
    formula: ClassVar[str] = "x ← x − lr sign(g), g as in `two_point`"
    gradient: ClassVar[bool] = False

    mu: Mu = 1e-2
    samples: Samples = 10
    lr: Annotated[float, pydantic.Field(gt=0), Float(1e-4, 1e-2, log=True)] = 3e-3

    @property
    def queries(self) -> int:
        """Both sides of every direction."""
        return 2 * self.samples

    def build(self, start: Tensor, steps: int, generator: Generator) -> Optimiser:
        """Return the search."""
        from fairtune.editing.descent import Descent, Signs
        from fairtune.editing.zeroth import gaussian, two_sided

        def slope(asked: Asked, point: Tensor, step: int) -> Slope:
            return two_sided(asked, point, self.mu, self.samples, gaussian, generator)

        return Descent(start, slope, Signs(self.lr), generator)
