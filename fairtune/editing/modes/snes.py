"""Separable natural evolution strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.editing import MODES

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from fairtune.editing import Optimiser


@MODES.register("snes")
class Snes(Config):
    """Move a diagonal Gaussian N(m, diag(s^2)) towards points of lower rank; the edit is m.

    L points m + s z_k, z_k ~ N(0, I), are ranked by their losses, the least first, and with u_k =
    max(0, log(L/2 + 1) - log k) / (sum of these) - 1/L: m <- m + s sum_k u_k z_k and
    s <- s exp(r/2 sum_k u_k (z_k^2 - 1)), r = (3 + log d) / (5 sqrt d). Points are asked about as
    the bounds cut them. A loss that is not finite ranks last. Ranks alone count: any scale of the
    loss will do. It is written here as cmaes.SepCMA draws from a generator of its
    own and keeps its state to itself, so that no search could go on bit for bit.

    Attributes:
        init_std: s at first. The best edit should lie within about one of it.
        population: L. The authors take 4 + 3 log d: 36 for 224 x 224 pixels, 15 for 7 x 7.
    """

    paper: ClassVar[str] = (
        "Schaul, Glasmachers and Schmidhuber, High Dimensions and Heavy Tails for Natural "
        "Evolution Strategies, GECCO 2011"
    )
    formula: ClassVar[str] = (
        "m ← m + s Σ u_k z_k, s ← s exp(r/2 Σ u_k (z_k² − 1)), u by rank of f(m + s z_k)"
    )
    gradient: ClassVar[bool] = False

    init_std: Annotated[float, pydantic.Field(gt=0), Float(5e-3, 1e-1, log=True)] = 3e-2
    population: Annotated[int, pydantic.Field(ge=2), Choice((12, 24, 36))] = 36

    @property
    def queries(self) -> int:
        """One a point."""
        return self.population

    def build(self, start: Tensor, steps: int, generator: Generator) -> Optimiser:
        """Return the search."""
        from fairtune.editing.natural import Natural

        return Natural(start, self.init_std, self.population, generator)
