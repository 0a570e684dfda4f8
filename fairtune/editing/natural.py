"""Search by a distribution of points: separable natural evolution strategies."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from fairtune.editing import Asked
from fairtune.editing.zeroth import not_finite


class Natural:
    """Moves the mean and the deviations of a diagonal Gaussian towards points of lower rank.

    Args:
        start: `(d,)` mean at first.
        sigma: Standard deviation of every pixel at first.
        population: Points asked about in a step.
        generator: Source of the points.
    """

    def __init__(self, start: Tensor, sigma: float, population: int, generator: Generator) -> None:
        self.point, self._generator = start.clone(), generator
        self._deviation = torch.full_like(start, sigma)
        size = len(start)
        self._rate = (3 + math.log(size)) / (5 * math.sqrt(size))
        self._utility = utilities(population)

    def step(self, asked: Asked) -> float:
        """Go one step; return the mean of the losses that were finite.

        Raises:
            RunError: None was.
        """
        count, size = len(self._utility), len(self.point)
        drawn = torch.randn(count, size, generator=self._generator)
        losses = [asked.value(asked.bounded(self.point + self._deviation * z)) for z in drawn]
        finite = [loss for loss in losses if math.isfinite(loss)]
        if not finite:
            raise not_finite()
        ranked = torch.tensor([x if math.isfinite(x) else math.inf for x in losses])
        weight = torch.empty(count)
        weight[ranked.argsort(stable=True)] = self._utility
        self.point = asked.bounded(self.point + self._deviation * (weight @ drawn))
        spread = weight @ drawn.square().sub_(1)
        self._deviation = self._deviation * spread.mul_(self._rate / 2).exp_()
        return math.fsum(finite) / len(finite)

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on."""
        return {
            "point": self.point.clone(),
            "deviation": self._deviation.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the search that `state` is of would have."""
        self.point, self._deviation = state["point"].clone(), state["deviation"].clone()
        self._generator.set_state(state["generator"])


def utilities(population: int) -> Tensor:
    """Return u_k `(population,)` of the k-th best, k from 1: they add up to 0.

    u_k = max(0, log(L/2 + 1) - log k) / (sum of these) - 1/L.
    """
    rank = torch.arange(1, population + 1, dtype=torch.float64)
    raw = (math.log(population / 2 + 1) - rank.log()).clamp(min=0)
    return (raw / raw.sum() - 1 / population).float()
