"""An affine model with one attribute of two groups, asked about edits: everything is known of it.

The logit of an image with edit e is z_i + w.e, with |w| = 1, so that the gradient of every loss of
the logits is a multiple of w.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]


def neg_ce(logit: Tensor, group: Tensor) -> Tensor:
    """Return -CE, the published objective."""
    return -functional.binary_cross_entropy_with_logits(logit, group)


def uniform(logit: Tensor, group: Tensor) -> Tensor:
    """Return the cross-entropy of the head's answer with 1/2."""
    return functional.binary_cross_entropy_with_logits(logit, torch.full_like(logit, 0.5))


@dataclass(eq=False)
class Affine:
    """Logits of rows and the direction that edits move them in.

    Attributes:
        direction: w `(d,)`, of norm 1.
        logit: z `(n,)` of unedited rows.
        group: `(n,)` of 0 and 1.
        origin: Shift that the head has been fitted to since.
    """

    direction: Tensor
    logit: Tensor
    group: Tensor
    origin: float = 0.0

    @classmethod
    def drawn(cls, size: int, rows: int = 4000, seed: int = 0) -> Affine:
        """Return one of `size` pixels: Gaussian classes, their true head, 56 % in group 1."""
        # Apart from the seeds of searches: else the first direction tried would be w.
        generator = torch.Generator().manual_seed(7000 + seed)
        direction = torch.randn(size, generator=generator)
        group = (torch.rand(rows, generator=generator) < 0.556).float()
        apart = 2.67
        along = apart * (group - 0.5) + torch.randn(rows, generator=generator)
        logit = apart * along + math.log(0.556 / 0.444)
        return cls(direction / direction.norm(), logit, group)

    def shift(self, point: Tensor) -> float:
        """Return by how much `point` moves the logits, as the head stands."""
        return float(self.direction @ point) - self.origin

    def refit(self, point: Tensor) -> None:
        """Fit the head to images edited by `point`: its intercept takes the shift back."""
        self.origin += self.shift(point)

    def accuracy(self, point: Tensor) -> float:
        """Return the share of rows whose group the head tells."""
        told = self.logit + self.shift(point) > 0
        return float((told == self.group.bool()).float().mean())

    def cosine(self, point: Tensor) -> float:
        """Return |cos| of `point` and the true gradient."""
        return abs(float(self.direction @ point)) / max(float(point.norm()), 1e-30)


@dataclass(eq=False)
class Batch:
    """One batch of an affine model; counts what it is asked.

    Attributes:
        model: The model.
        rows: Of the batch.
        loss: Of logits and groups.
        weight: Of the regulariser |e|_2.
        linf: Bound of a pixel; infinite for none.
        asked: Queries so far.
        broken: Numbers of queries that are answered by NaN.
    """

    model: Affine
    rows: Tensor
    loss: Loss = neg_ce
    weight: float = 0.0
    linf: float = math.inf
    asked: int = 0
    broken: frozenset[int] = frozenset()
    points: list[Tensor] | None = field(default=None)

    def value(self, point: Tensor) -> float:
        if self.points is not None:
            self.points.append(point.clone())
        self.asked += 1
        if self.asked - 1 in self.broken:
            return math.nan
        logit = self.model.logit[self.rows] + self.model.shift(point)
        found = self.loss(logit, self.model.group[self.rows])
        return float(found) + self.weight * float(point.norm())

    def gradient(self, point: Tensor) -> Tensor:
        self.asked += 1
        if self.asked - 1 in self.broken:
            return torch.full_like(point, math.nan)
        shift = torch.tensor(self.model.shift(point), requires_grad=True)
        logit = self.model.logit[self.rows] + shift
        (slope,) = torch.autograd.grad(self.loss(logit, self.model.group[self.rows]), shift)
        pull = self.weight / max(float(point.norm()), 1e-30)
        return self.model.direction * slope + point * pull

    def bounded(self, point: Tensor) -> Tensor:
        return point.clamp(-self.linf, self.linf)


class Batches:
    """Batches of one model in the order of a seed, with one count of all queries."""

    def __init__(
        self, model: Affine, loss: Loss = neg_ce, *, size: int = 128, seed: int = 0, **more: float
    ) -> None:
        self.model, self.loss, self.size, self.more = model, loss, size, more
        self.queries = 0
        self._generator = torch.Generator().manual_seed(seed)

    def next(self) -> Batch:
        rows = torch.randint(0, len(self.model.logit), (self.size,), generator=self._generator)
        return Batch(self.model, rows, self.loss, **self.more)  # type: ignore[arg-type]
