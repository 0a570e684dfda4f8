"""Steps down the true gradient: for models that have one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.editing import MODES

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from fairtune.editing import Asked, Optimiser
    from fairtune.editing.zeroth import Slope


@MODES.register("white")
class White(Config):
    """Step by Adam, or plainly, down the gradient of the loss with respect to the edit.

    Adam: x <- x - lr m / sqrt(v), running means of g and g^2 with decays .9 and .999, corrected
    for their start. sgd: x <- x - lr g / G with G the largest root mean square of a g so far. In
    both, `lr` is by how much a step moves a pixel, about, at most.

    The published code makes a new Adam for every pass over the data, with lr 5e-5; here one goes
    on for all steps.

    Attributes:
        lr: By how much a step moves a pixel of an image in [0, 1].
        optimizer: Adam or sgd.
    """

    paper: ClassVar[str] = (
        "Jin et al., Debiased Noise Editing on Foundation Models for Fair Medical Image "
        "Classification, MICCAI 2024; Kingma and Ba, Adam, ICLR 2015"
    )
    formula: ClassVar[str] = "x ← x − lr m/√v (adam), x ← x − lr g/G (sgd), g = ∇f(x)"
    gradient: ClassVar[bool] = True

    lr: Annotated[float, pydantic.Field(gt=0), Float(5e-5, 2e-2, log=True)] = 1e-3
    optimizer: Annotated[Literal["adam", "sgd"], Choice(("adam", "sgd"))] = "adam"

    @property
    def queries(self) -> int:
        """One forward and backward pass."""
        return 1

    def build(self, start: Tensor, steps: int, generator: Generator) -> Optimiser:
        """Return the search."""
        from fairtune.editing.descent import Adam, Capped, Descent
        from fairtune.editing.zeroth import true_slope

        def slope(asked: Asked, point: Tensor, step: int) -> Slope:
            return true_slope(asked, point)

        rule = Adam(self.lr) if self.optimizer == "adam" else Capped(self.lr)
        return Descent(start, slope, rule, generator)
