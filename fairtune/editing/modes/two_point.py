"""Two-point estimates of the gradient, and plain steps down it."""

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


@MODES.register("two_point")
class TwoPoint(Config):
    """Step down g = (1/q) sum_j z_j (f(x + mu z_j) - f(x - mu z_j)) / (2 mu), z_j ~ N(0, I).

    x <- x - lr g / G with G the largest root mean square of a g so far. The papers' step, eta g,
    is right for one scale of the loss, one model and one q. Divided by G, `lr` is by how much the
    boldest step moves a pixel of an image in [0, 1], and steps get shorter as the loss gets
    flatter.

    Where f is linear over mu, |cos(x, grad f)| is about sqrt(Q / 2 / d) after Q queries. MeZO is
    q = 1.

    Attributes:
        mu: How far away a pixel is looked at, root mean square.
        samples: q, directions of a step.
        lr: Root mean square by which the boldest step moves pixels.
    """

    paper: ClassVar[str] = (
        "Malladi et al., Fine-Tuning Language Models with Just Forward Passes (MeZO), NeurIPS "
        "2023; estimates as in Nesterov and Spokoiny, FoCM 2017"
    )
    formula: ClassVar[str] = "x ← x − lr g/G, g = mean of z (f(x+μz) − f(x−μz))/2μ"
    gradient: ClassVar[bool] = False

    mu: Mu = 1e-2
    samples: Samples = 4
    lr: Annotated[float, pydantic.Field(gt=0), Float(1e-3, 3e-2, log=True)] = 1e-2

    @property
    def queries(self) -> int:
        """Both sides of every direction."""
        return 2 * self.samples

    def build(self, start: Tensor, steps: int, generator: Generator) -> Optimiser:
        """Return the search."""
        from fairtune.editing.descent import Capped, Descent
        from fairtune.editing.zeroth import gaussian, two_sided

        def slope(asked: Asked, point: Tensor, step: int) -> Slope:
            return two_sided(asked, point, self.mu, self.samples, gaussian, generator)

        return Descent(start, slope, Capped(self.lr), generator)
