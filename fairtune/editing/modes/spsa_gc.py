"""SPSA with gradient correction: a look ahead along a momentum."""

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


@MODES.register("spsa_gc")
class SpsaGc(Config):
    """Step by Nesterov's momentum: v <- .9 v + g, x <- x - a_k (g + .9 v), with g as in `spsa`.

    g = (1/q) sum_j (f(x + c_k z_j) - f(x - c_k z_j)) / (2 c_k z_j), entry by entry; entries of z
    are uniform on [-1, -.5] and [.5, 1]. a_k = a / (k + 1 + A)^.4 with A = 1 and
    c_k = c / (k + 1)^.1, the exponents of the paper's network. Its a is for one scale of the loss;
    here a follows from `first`, as in `spsa`, divided by what a momentum multiplies steps with,
    1 / (1 - .9).

    Attributes:
        c: How far away a pixel is looked at, at first, at most.
        samples: q, directions of a step.
        first: By how much the first steps move a pixel, about.
    """

    paper: ClassVar[str] = (
        "Oh et al., BlackVIP: Black-Box Visual Prompting for Robust Transfer Learning, CVPR 2023"
    )
    formula: ClassVar[str] = (
        "v ← .9v + g, x ← x − a_k (g + .9v), g = mean of (f(x+c_k z) − f(x−c_k z))/2c_k z"
    )
    gradient: ClassVar[bool] = False

    c: Mu = 1e-2
    samples: Annotated[int, pydantic.Field(ge=1), Choice((1, 5))] = 5
    first: Annotated[float, pydantic.Field(gt=0), Float(1e-4, 3e-2, log=True)] = 1e-2

    @property
    def queries(self) -> int:
        """Both sides of every direction."""
        return 2 * self.samples

    def build(self, start: Tensor, steps: int, generator: Generator) -> Optimiser:
        """Return the search."""
        from fairtune.editing.descent import Descent, Gains
        from fairtune.editing.zeroth import segments, two_sided

        def slope(asked: Asked, point: Tensor, step: int) -> Slope:
            near = self.c / (step + 1) ** 0.1
            return two_sided(asked, point, near, self.samples, segments, generator)

        return Descent(start, slope, Gains(self.first, 1.0, 0.4, momentum=0.9), generator)
