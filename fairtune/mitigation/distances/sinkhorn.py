"""The Sinkhorn divergence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Config, Float
from fairtune.config.model import carried
from fairtune.errors import ConfigError
from fairtune.mitigation.distances import DISTANCES

if TYPE_CHECKING:
    from torch import Tensor

LEAST, MOST = 0.1, 1.0


@DISTANCES.register("sinkhorn")
class SinkhornDivergence(Config):
    """The debiased Sinkhorn divergence with eps = blur^2.

    Attributes:
        blur: In standard deviations of the scores, 0.1 to 1. Less is `w2`, which is exact; more
            compares little else than the means.
    """

    formula: ClassVar[str] = "S_ε, ε = blur²"

    blur: Annotated[float, Float(LEAST, MOST, log=True)] = 0.3

    @pydantic.field_validator("blur")
    @classmethod
    def _in_range(cls, value: float) -> float:
        if LEAST <= value <= MOST:
            return value
        todo = "take distance: w2, the exact limit of no blur" if value < LEAST else None
        raise carried(
            ConfigError(
                "not a blur in standard deviations of the scores",
                found=value,
                allowed=f"{LEAST:g} to {MOST:g}",
                todo=todo,
            )
        )

    def measure(self, x: Tensor, member: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the divergences, and how many problems did not converge."""
        from fairtune.mitigation.transport import sinkhorn

        return sinkhorn(x, member, self.blur)
