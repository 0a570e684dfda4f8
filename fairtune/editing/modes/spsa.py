"""Simultaneous perturbation stochastic approximation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.editing import MODES
from fairtune.editing.fields import Mu

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from fairtune.editing import Asked, Optimiser
    from fairtune.editing.zeroth import Slope


@MODES.register("spsa")
class Spsa(Config):
    """Step down g = (1/q) sum_j z_j (f(x + c_k z_j) - f(x - c_k z_j)) / (2 c_k), z_j of -1 and 1.

    x <- x - a_k g with a_k = a / (k + 1 + A)^.602, c_k = c / (k + 1)^.101 and A a tenth of all
    steps, as Spall recommends. a follows from `first`, by how much the first step is to move a
    pixel: a = first (1 + A)^.602 / G with G the mean |g_i|. Spall takes G from some estimates made
    beforehand; here it is the largest so far, so that a flat start makes no giant step later.

    Attributes:
        c: How far away a pixel is looked at, at first.
        samples: q, directions of a step.
        first: By how much the first step moves a pixel.
    """

    paper: ClassVar[str] = (
        "Spall, Implementation of the Simultaneous Perturbation Algorithm for Stochastic "
        "Optimization, IEEE TAES 1998"
    )
    formula: ClassVar[str] = "x ← x − a_k g, g = mean of z (f(x+c_k z) − f(x−c_k z))/2c_k, z = ±1"
    gradient: ClassVar[bool] = False

    c: Mu = 1e-2
    samples: Annotated[int, pydantic.Field(ge=1), Choice((1, 5))] = 1
    first: Annotated[float, pydantic.Field(gt=0), Float(1e-4, 3e-2, log=True)] = 1e-2

    @property
    def queries(self) -> int:
        """Both sides of every direction."""
        return 2 * self.samples

    def build(self, start: Tensor, steps: int, generator: Generator) -> Optimiser:
        """Return the search."""
        from fairtune.editing.descent import Descent, Gains
        from fairtune.editing.zeroth import signs, two_sided

        def slope(asked: Asked, point: Tensor, step: int) -> Slope:
            near = self.c / (step + 1) ** 0.101
            return two_sided(asked, point, near, self.samples, signs, generator)

        return Descent(start, slope, Gains(self.first, 0.1 * steps, 0.602), generator)
