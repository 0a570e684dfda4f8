"""Random noise: the control of equal norm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Config, Float
from fairtune.editing import MODES

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from fairtune.editing import Optimiser


@MODES.register("random")
class Random(Config):
    """Draw x ~ N(0, I) once, scaled to the root mean square `rms`; no model is asked.

    What an edit of this size does to a model that it knows nothing of. Bounds are kept by the step
    that is never made, or by whoever takes the point: where they are reached, x gets smaller.

    Attributes:
        rms: Root mean square of the pixels, in 1/255.
    """

    paper: ClassVar[str] = "none: the control that a learned edit is compared with"
    formula: ClassVar[str] = "x = rms · N(0, I), once"
    gradient: ClassVar[bool] = False

    rms: Annotated[float, pydantic.Field(gt=0), Float(1, 32, log=True)] = 8.0

    @property
    def queries(self) -> int:
        """Nothing is asked, and no step is made."""
        return 0

    def build(self, start: Tensor, steps: int, generator: Generator) -> Optimiser:
        """Return the search."""
        from fairtune.editing.drawn import Drawn
        from fairtune.editing.edit import EIGHT_BIT

        return Drawn(start, self.rms / EIGHT_BIT, generator)
