"""One batch that a search may ask about points, with an exact count of what it asked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fairtune.editing import terms
from fairtune.editing.edit import applied
from fairtune.editing.grid import Grid
from fairtune.editing.heads import Heads
from fairtune.editing.terms import Part

if TYPE_CHECKING:
    from fairtune.editing.edits.dne import Dne
    from fairtune.editing.scene import Scene


class Asking:
    """A batch under points of a grid; an `Asked`.

    Args:
        rule: What is learned.
        scene: The model.
        grid: Where points stand.
        heads: What the edit is learned against.
        part: The batch.
        allowed: Queries that a step may make; one that asks more is a fault of its mode.

    Attributes:
        queries: Forward passes so far, those with a backward pass too.
        loss: Of the last gradient; NaN before.
    """

    def __init__(
        self, rule: Dne, scene: Scene, grid: Grid, heads: Heads, part: Part, allowed: int
    ) -> None:
        self._rule, self._scene, self._grid = rule, scene, grid
        self._heads, self._part, self._allowed = heads, part, allowed
        self.queries, self.loss = 0, math.nan

    def value(self, point: Tensor) -> float:
        """Return the loss of the batch under `point`."""
        with torch.no_grad():
            return float(self._loss(point))

    def gradient(self, point: Tensor) -> Tensor:
        """Return its gradient `(d,)` on the CPU."""
        at = point.detach().clone().requires_grad_()
        loss = self._loss(at)
        (found,) = torch.autograd.grad(loss, at)
        self.loss = float(loss.detach())
        return found.cpu()

    def bounded(self, point: Tensor) -> Tensor:
        """Return the nearest point that the edit's bounds allow."""
        return self._grid.bounded(point)

    def _loss(self, point: Tensor) -> Tensor:
        if self.queries == self._allowed:
            raise RuntimeError(f"a step asks more than the {self._allowed} queries it declares")
        self.queries += 1
        full = self._grid.full(point.to(self._scene.device))
        embedding = self._scene.embed(applied(self._part.image, full, self._rule.clamp))
        data = terms.loss(self._rule, self._heads, self._part, self._scene.task, embedding)
        return data + terms.penalty(self._rule, full)
