"""The energy distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fairtune.config import Config
from fairtune.mitigation.distances import DISTANCES

if TYPE_CHECKING:
    from torch import Tensor


@DISTANCES.register("energy")
class Energy(Config):
    """The energy distance as a U-statistic: unbiased, so a small group does not look unfair."""

    formula: ClassVar[str] = "E|X-Y| - ½E|X-X'| - ½E|Y-Y'|, unbiased"

    def measure(self, x: Tensor, member: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the distances; a closed form, so none is unsolved."""
        from fairtune.mitigation.transport import energy

        return energy(x, member), None
