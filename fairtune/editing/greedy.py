"""Search by comparing: the best of some candidates is taken."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from fairtune.editing import Asked
from fairtune.editing.zeroth import not_finite


class Greedy:
    """Takes the best of the point, random steps both ways, and the best of these with momentum.

    Args:
        start: `(d,)`.
        sigma: Standard deviation of a pixel's step at first.
        samples: Directions of a step.
        momentum: b, share of the last move that is tried again; 0 tries none.
        decay: Factor of sigma after a step on which nothing is better than the point.
        generator: Source of the directions.
    """

    def __init__(
        self,
        start: Tensor,
        sigma: float,
        samples: int,
        momentum: float,
        decay: float,
        generator: Generator,
    ) -> None:
        self.point = start.clone()
        self.sigma = sigma
        self._samples, self._momentum, self._decay = samples, momentum, decay
        self._generator = generator
        self._velocity = torch.zeros_like(start)

    def step(self, asked: Asked) -> float:
        """Go one step; return the loss of the batch where the point stands then.

        Raises:
            RunError: No loss was finite.
        """
        before = _loss(asked, self.point)
        found, least = self._best(asked)
        if self._momentum > 0:
            pushed = asked.bounded(torch.add(found, self._velocity, alpha=self._momentum))
            loss = _loss(asked, pushed)
            found, least = (pushed, loss) if loss < least else (found, least)
        if min(before, least) == math.inf:
            raise not_finite()
        if least < before:
            self._velocity, self.point = found - self.point, found
            return least
        self._velocity = self._velocity * self._momentum
        self.sigma *= self._decay
        return before

    def _best(self, asked: Asked) -> tuple[Tensor, float]:
        """Return the best of 2 `samples` steps and its loss; only that one is kept."""
        found, least = self.point, math.inf
        for _ in range(self._samples):
            step = torch.randn(len(found), generator=self._generator).mul_(self.sigma)
            for candidate in (self.point + step, self.point - step):
                allowed = asked.bounded(candidate)
                loss = _loss(asked, allowed)
                if loss < least:
                    found, least = allowed, loss
        return found, least

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on."""
        return {
            "point": self.point.clone(),
            "velocity": self._velocity.clone(),
            "sigma": torch.tensor(self.sigma, dtype=torch.float64),
            "generator": self._generator.get_state(),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the search that `state` is of would have."""
        self.point, self._velocity = state["point"].clone(), state["velocity"].clone()
        self.sigma = float(state["sigma"])
        self._generator.set_state(state["generator"])


class Published:
    """GeZO as its released code makes a step: see `fairtune.compat.edit_modes`.

    Args:
        start: `(d,)`.
        sigma: Standard deviation of a pixel's step.
        samples: Candidates of a step.
        generator: Source of the candidates.
    """

    def __init__(self, start: Tensor, sigma: float, samples: int, generator: Generator) -> None:
        self.point = start.clone()
        self._sigma, self._samples, self._generator = sigma, samples, generator

    def step(self, asked: Asked) -> float:
        """Go one step; return the loss of the batch where the point stands then.

        Raises:
            RunError: No loss was finite.
        """
        found, least = self.point, math.inf
        for _ in range(self._samples):
            step = torch.randn(len(found), generator=self._generator).mul_(self._sigma)
            for _ in range(BATCHES):
                # What this answers is thrown away, as it is there.
                _loss(asked, asked.bounded(self.point - step))
                candidate = asked.bounded(self.point + step)
                loss = _loss(asked, candidate)
                if loss < least:
                    found, least = candidate, loss
        if least == math.inf:
            raise not_finite()
        self.point = found
        return least

    def state(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on."""
        return {"point": self.point.clone(), "generator": self._generator.get_state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the search that `state` is of would have."""
        self.point = state["point"].clone()
        self._generator.set_state(state["generator"])


BATCHES = 2
"""Batches on which the released code asks about every candidate."""


def _loss(asked: Asked, point: Tensor) -> float:
    """Ask; a loss that is not finite is larger than every other."""
    loss = asked.value(point)
    return loss if math.isfinite(loss) else math.inf
