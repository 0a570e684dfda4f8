"""How far the scores of a group are from those of everybody: one file per distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from fairtune.config import Config, Registry

if TYPE_CHECKING:
    from torch import Tensor

DISTANCES: Registry[Config] = Registry("distance", "fairtune.mitigation.distances")


@runtime_checkable
class Distance(Protocol):
    """A distance between distributions of scores that are in units of their SD.

    Attributes:
        formula: What it is, in one line.
    """

    formula: ClassVar[str]

    def measure(self, x: Tensor, member: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the distances `(p, g)`, and how many problems were not solved, if any can fail.

        Args:
            x: `(n, d)` scores.
            member: `(p, g, n)` of 0 and 1; see `fairtune.mitigation.transport`.
        """
