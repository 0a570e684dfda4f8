"""The exact Wasserstein distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fairtune.config import Config
from fairtune.mitigation.distances import DISTANCES

if TYPE_CHECKING:
    from torch import Tensor


@DISTANCES.register("w2")
class W2(Config):
    """(1/2) W_2^2, exact: by sorting for one number a sample, by POT for vectors."""

    formula: ClassVar[str] = "½ W₂²"

    def measure(self, x: Tensor, member: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the distances; exact, so none is unsolved."""
        from fairtune.mitigation.transport import w2, w2_points

        return (w2 if x.shape[1] == 1 else w2_points)(x, member), None
