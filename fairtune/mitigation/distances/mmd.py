"""The maximum mean discrepancy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Config, Float
from fairtune.mitigation.distances import DISTANCES

if TYPE_CHECKING:
    from torch import Tensor


@DISTANCES.register("mmd")
class Mmd(Config):
    """MMD^2 of a Gaussian kernel as a U-statistic.

    Attributes:
        bandwidth: SD of the kernel, in standard deviations of the scores.
    """

    formula: ClassVar[str] = "MMD² of a Gaussian kernel, unbiased"

    bandwidth: Annotated[float, pydantic.Field(gt=0), Float(0.3, 3.0, log=True)] = 1.0

    def measure(self, x: Tensor, member: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the distances; a closed form, so none is unsolved."""
        from fairtune.mitigation.transport import mmd

        return mmd(x, member, self.bandwidth), None
