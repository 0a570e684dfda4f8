"""One-sided estimates, divided by how far the losses are apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.editing import MODES
from fairtune.editing.fields import Memory, Mu

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from fairtune.editing import Asked, Optimiser
    from fairtune.editing.zeroth import Slope


@MODES.register("fzoo")
class Fzoo(Config):
    """Step down g = 1/(q - 1) sum_j z_j (f(x + mu z_j) - their mean) / mu, z_j of -1 and 1.

    x <- x - lr g / S with S^2 the mean over steps of (1/q times the variance of the losses over
    mu^2) with decay `memory`, corrected for its start: the root mean square of g that is to be
    expected, so `lr` is by how much a step moves a pixel. With `memory` 0, S is that of this step
    alone, as published.

    A direction costs one query where two-point estimates pay two, so that where f is linear over
    mu |cos(x, grad f)| is about sqrt((q - 1) / q * Q / d) after Q queries, 1.4 times theirs. What
    is curved in f is nearly the same along all directions of many pixels: the mean has it too.

    Deviations: losses are compared with their mean, where the paper asks about x too, a query more
    for less; and `lr` is that of a pixel, where the paper's step is sqrt(q) times smaller.

    Attributes:
        mu: How far away a pixel is looked at.
        samples: q, directions of a step.
        lr: Root mean square by which a step moves pixels.
        memory: Decay of S^2.
    """

    paper: ClassVar[str] = (
        "Dang et al., FZOO: Fast Zeroth-Order Optimizer for Fine-Tuning Large Language Models "
        "towards Adam-Scale Speed, ICLR 2026"
    )
    formula: ClassVar[str] = "x ← x − lr g/S, g = mean of z (f(x+μz) − mean f)/μ, z = ±1"
    gradient: ClassVar[bool] = False

    mu: Mu = 1e-2
    samples: Annotated[int, pydantic.Field(ge=2), Choice((4, 8, 16, 32))] = 16
    lr: Annotated[float, pydantic.Field(gt=0), Float(1e-3, 3e-2, log=True)] = 5e-3
    memory: Memory = 0.9

    @property
    def queries(self) -> int:
        """One a direction."""
        return self.samples

    def build(self, start: Tensor, steps: int, generator: Generator) -> Optimiser:
        """Return the search."""
        from fairtune.editing.descent import Descent, Scaled
        from fairtune.editing.zeroth import one_sided, signs

        def slope(asked: Asked, point: Tensor, step: int) -> Slope:
            return one_sided(asked, point, self.mu, self.samples, signs, generator)

        return Descent(start, slope, Scaled(self.lr, self.memory), generator)
