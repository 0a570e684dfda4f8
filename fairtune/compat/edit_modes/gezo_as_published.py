"""GeZO as its released code computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.editing import MODES

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from fairtune.editing import Optimiser


@MODES.register("gezo_as_published")
class GezoAsPublished(Config):
    """Take the best of x + p_j (p_j ~ sigma N(0, I)), always: x is not among the candidates.

    Each p_j is asked about with both signs on two batches; of the four answers those of -p_j are
    never looked at, and the less of the other two counts. There is no momentum, as the velocity is
    set to 0 at every step, and no decay, as it stands where only NaN leads. So x is a sum of T
    steps of norm sigma sqrt(d): |x|_2 is near sigma sqrt(T d) whatever the loss, and with 10
    samples |cos(x, grad f)| near 1.54 sqrt(T / d) where f is linear. To be used only to show why
    numbers made with that code differ; `gezo` is the method of the paper.

    From the code of DNE-foundation-model-fairness (commit bb61b27), with two differences: a step
    has one batch here, which is asked about twice; where no loss is finite the search ends with an
    error, where the code reads a variable that is not there.

    Attributes:
        init_step: sigma, by how much a candidate moves a pixel; the README has 0.03.
        samples: Candidates of a step.
    """

    paper: ClassVar[str] = "Jin et al., MICCAI 2024: the released code, not the paper"
    formula: ClassVar[str] = "x ← x + the best p_j of p_1 … p_S ~ σN"
    gradient: ClassVar[bool] = False

    init_step: Annotated[float, pydantic.Field(gt=0), Float(5e-4, 3e-2, log=True)] = 1e-2
    samples: Annotated[int, pydantic.Field(ge=1), Choice((1, 2, 5, 10, 20))] = 10

    @property
    def queries(self) -> int:
        """Two batches of both signs, of which a quarter would do."""
        return 4 * self.samples

    def build(self, start: Tensor, steps: int, generator: Generator) -> Optimiser:
        """Return the search."""
        from fairtune.editing.greedy import Published

        return Published(start, self.init_step, self.samples, generator)
