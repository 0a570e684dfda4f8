"""GeZO, repaired: the best of random steps is kept if it is better than none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.editing import MODES

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from fairtune.editing import Optimiser


@MODES.register("gezo")
class Gezo(Config):
    """Take the best of x, all x + p_j and x - p_j with p_j ~ sigma N(0, I), and one with momentum.

    All are asked about on one batch. With `momentum` b > 0, the best x +- p_j is asked about once
    more with b v added, v the last move: it is taken if it is better than the step without. So a
    step costs 2 `samples` + 1 queries, and one more with momentum, even where v is 0, so that all
    steps cost the same. Where nothing is better than x, x stays, sigma <- `step_decay` sigma and
    v <- b v. On a fixed batch the loss never rises.

    The kink: from x = 0 with a regulariser lambda |x|_2, a step is taken only if E max_j |N_j| *
    |grad f| > lambda sqrt(d), whatever sigma is, so that smaller steps never help. With d = 50,176
    a lambda of 1e-3 can keep it at 0 for ever; `rms2` has no kink.

    The published code differs in all of this: see `gezo_as_published`.

    Attributes:
        init_step: sigma at first, by how much a candidate moves a pixel.
        samples: Directions of a step; each is tried both ways.
        momentum: b.
        step_decay: Factor of sigma when nothing was better.
    """

    paper: ClassVar[str] = (
        "Jin et al., Debiased Noise Editing on Foundation Models for Fair Medical Image "
        "Classification, MICCAI 2024: as its figure shows it, not as its code has it"
    )
    formula: ClassVar[str] = (
        "x ← the best of x, x ± p_j, best + b v; p_j ~ σN; σ ← decay·σ where x stays"
    )
    gradient: ClassVar[bool] = False

    init_step: Annotated[float, pydantic.Field(gt=0), Float(5e-4, 3e-2, log=True)] = 5e-3
    samples: Annotated[int, pydantic.Field(ge=1), Choice((1, 2, 5, 10))] = 5
    momentum: Annotated[float, pydantic.Field(ge=0, lt=1), Choice((0.0, 0.5, 0.9))] = 0.5
    step_decay: Annotated[float, pydantic.Field(gt=0, le=1), Float(0.8, 0.99)] = 0.95

    @property
    def queries(self) -> int:
        """The point, both signs of every direction, and the best of these with momentum."""
        return 2 * self.samples + (2 if self.momentum > 0 else 1)

    def build(self, start: Tensor, steps: int, generator: Generator) -> Optimiser:
        """Return the search."""
        from fairtune.editing.greedy import Greedy

        return Greedy(
            start, self.init_step, self.samples, self.momentum, self.step_decay, generator
        )
