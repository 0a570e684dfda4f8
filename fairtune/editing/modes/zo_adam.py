"""Adam on two-point estimates."""

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


@MODES.register("zo_adam")
class ZoAdam(Config):
    """Step by Adam on the estimate g of `two_point`: x <- x - lr m / sqrt(v).

    m and v are running means of g and g^2 with decays .9 and .999, corrected for their start; v is
    Adam's, not the largest one so far of ZO-AdaMM, which has a bound of its own in place of ours.

    Attributes:
        mu: How far away a pixel is looked at, root mean square.
        samples: q, directions of a step.
        lr: By how much a step moves a pixel, about.
    """

    paper: ClassVar[str] = (
        "Chen et al., ZO-AdaMM: Zeroth-Order Adaptive Momentum Method for Black-Box "
        "Optimization, NeurIPS 2019; Kingma and Ba, Adam, ICLR 2015"
    )
    formula: ClassVar[str] = "x ← x − lr m/√v, running means of g and g², g as in `two_point`"
    gradient: ClassVar[bool] = False

    mu: Mu = 1e-2
    samples: Samples = 10
    lr: Annotated[float, pydantic.Field(gt=0), Float(3e-4, 1e-2, log=True)] = 5e-3

    @property
    def queries(self) -> int:
        """Both sides of every direction."""
        return 2 * self.samples

    def build(self, start: Tensor, steps: int, generator: Generator) -> Optimiser:
        """Return the search."""
        from fairtune.editing.descent import Adam, Descent
        from fairtune.editing.zeroth import gaussian, two_sided

        def slope(asked: Asked, point: Tensor, step: int) -> Slope:
            return two_sided(asked, point, self.mu, self.samples, gaussian, generator)

        return Descent(start, slope, Adam(self.lr), generator)
