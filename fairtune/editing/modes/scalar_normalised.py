"""Two-point estimates, divided by how steep the loss has been of late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Config, Float
from fairtune.editing import MODES
from fairtune.editing.fields import Memory, Mu, Samples

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from fairtune.editing import Asked, Optimiser
    from fairtune.editing.zeroth import Slope


@MODES.register("scalar_normalised")
class ScalarNormalised(Config):
    """Step down the estimate g of `two_point`: x <- x - lr g / S.

    S^2 is the mean over steps of (mean_j s_j^2) / q with decay `memory`, corrected for its start,
    where s_j are the slopes along the q directions. S is the root mean square of g that is to be
    expected, so `lr` is by how much a step moves a pixel, whatever the loss is measured in.

    Deviation: the paper takes the mean of (mean_j s_j)^2, of the same expectation but with q times
    the variance, and a correction by beta^(t - 1).

    Attributes:
        mu: How far away a pixel is looked at, root mean square.
        samples: q, directions of a step.
        lr: Root mean square by which a step moves pixels.
        memory: beta, decay of S^2.
    """

    paper: ClassVar[str] = (
        "Dbouk et al., On Adaptivity in Zeroth-Order Optimization (MEAZO), 2026, arXiv 2605.03869"
    )
    formula: ClassVar[str] = "x ← x − lr g/S, S² = running mean of g² over pixels"
    gradient: ClassVar[bool] = False

    mu: Mu = 1e-2
    samples: Samples = 4
    lr: Annotated[float, pydantic.Field(gt=0), Float(1e-3, 3e-2, log=True)] = 5e-3
    memory: Memory = 0.9

    @property
    def queries(self) -> int:
        """Both sides of every direction."""
        return 2 * self.samples

    def build(self, start: Tensor, steps: int, generator: Generator) -> Optimiser:
        """Return the search."""
        from fairtune.editing.descent import Descent, Scaled
        from fairtune.editing.zeroth import gaussian, two_sided

        def slope(asked: Asked, point: Tensor, step: int) -> Slope:
            return two_sided(asked, point, self.mu, self.samples, gaussian, generator)

        return Descent(start, slope, Scaled(self.lr, self.memory), generator)
