"""A point that is drawn and stays."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from fairtune.editing import Asked
from fairtune.editing.zeroth import rms


class Drawn:
    """A Gaussian point whose values have the root mean square `size`, exactly.

    Args:
        like: `(d,)`, of which only the shape counts.
        size: Root mean square of the values.
        generator: Source of the point.
    """

    def __init__(self, like: Tensor, size: float, generator: Generator) -> None:
        noise = torch.randn(len(like), generator=generator)
        self.point = noise * (size / rms(noise))

    def step(self, asked: Asked) -> float:
        """Ask nothing; bound the point, which makes it smaller where bounds are reached."""
        self.point = asked.bounded(self.point)
        return math.nan

    def state(self) -> dict[str, Tensor]:
        """Return the point."""
        return {"point": self.point.clone()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the point."""
        self.point = state["point"].clone()
