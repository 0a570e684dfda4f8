"""What making an edit asks of a model, before it is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Asks:
    """The most that an edit asks.

    Attributes:
        heads: Queries for the heads that are fitted first, as if no embedding had been kept.
        budget: Most queries of steps and refits.
        images: Images of a query.
        gradient: Whether a query of a step has a backward pass.
    """

    heads: int = 0
    budget: int = 0
    images: int = 0
    gradient: bool = False

    @property
    def queries(self) -> int:
        """Queries in all."""
        return self.heads + self.budget

    def seconds(self, forward: float, backward: float) -> float:
        """Return the time that they take.

        Args:
            forward: Seconds of a forward pass of one image.
            backward: The same of a forward and a backward pass.
        """
        step = backward if self.gradient else forward
        return self.images * (self.heads * forward + self.budget * step)
