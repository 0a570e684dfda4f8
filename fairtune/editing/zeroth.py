"""Slopes without a gradient: what a batch says about its loss at a few points."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from fairtune.editing import Asked
from fairtune.errors import RunError

Draw = Callable[[int, Generator], tuple[Tensor, Tensor]]
"""Draws a direction z `(d,)` and what a slope along it is multiplied by, `(d,)`."""


@dataclass(frozen=True, eq=False)
class Slope:
    """An estimate of the gradient of one batch.

    Attributes:
        gradient: `(d,)`.
        scale: Root mean square of `gradient` that is to be expected, from the slopes s_j along
            the q directions that were tried: sqrt(mean s_j^2 / q).
        loss: Mean loss at the points that were asked about; NaN where none was.
    """

    gradient: Tensor
    scale: float
    loss: float


def gaussian(size: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw z ~ N(0, I)."""
    z = torch.randn(size, generator=generator)
    return z, z


def signs(size: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw z of -1 and 1, each with probability 1/2."""
    z = torch.randint(0, 2, (size,), generator=generator, dtype=torch.float32).mul_(2).sub_(1)
    return z, z


def segments(size: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw z with entries uniform on [-1, -1/2] and [1/2, 1]; slopes are divided by it."""
    z = torch.rand(size, generator=generator).sub_(0.5)
    z = z + torch.where(z < 0, -0.5, 0.5)
    return z, z.reciprocal()


def two_sided(
    asked: Asked, point: Tensor, mu: float, samples: int, draw: Draw, generator: Generator
) -> Slope:
    """Return g = (1/q) sum_j s_j z_j with s_j = (f(x + mu z_j) - f(x - mu z_j)) / (2 mu).

    Asks 2 `samples` queries. The points asked about may lie outside of the bounds, by mu: cut
    back, they would say nothing about where the bounds are reached. A pair with a loss that is
    not finite is left out.

    Raises:
        RunError: No pair was finite.
    """
    total, squares, losses = torch.zeros_like(point), 0.0, []
    for _ in range(samples):
        z, back = draw(len(point), generator)
        up = asked.value(torch.add(point, z, alpha=mu))
        down = asked.value(torch.sub(point, z, alpha=mu))
        if math.isfinite(up) and math.isfinite(down):
            slope = (up - down) / (2 * mu)
            total.add_(back, alpha=slope)
            squares += slope * slope
            losses += [up, down]
    if not losses:
        raise not_finite()
    pairs = len(losses) // 2
    return Slope(total.div_(pairs), math.sqrt(squares) / pairs, _mean(losses))


def one_sided(
    asked: Asked, point: Tensor, mu: float, samples: int, draw: Draw, generator: Generator
) -> Slope:
    """Return g = 1/(q - 1) sum_j s_j z_j with s_j = (f(x + mu z_j) - their mean) / mu.

    Asks `samples` queries, at least 2. A loss that is not finite is left out.

    Raises:
        RunError: Fewer than two losses were finite.
    """
    tried = []
    for _ in range(samples):
        z, back = draw(len(point), generator)
        loss = asked.value(torch.add(point, z, alpha=mu))
        if math.isfinite(loss):
            tried.append((loss, back))
    if len(tried) < 2:
        raise not_finite()
    mean, free = _mean(loss for loss, _ in tried), len(tried) - 1
    total, squares = torch.zeros_like(point), 0.0
    for loss, back in tried:
        slope = (loss - mean) / mu
        total.add_(back, alpha=slope)
        squares += slope * slope
    return Slope(total.div_(free), math.sqrt(squares) / free, mean)


def true_slope(asked: Asked, point: Tensor) -> Slope:
    """Return the gradient itself: one query.

    Raises:
        RunError: It is not finite.
    """
    gradient = asked.gradient(point)
    if not bool(torch.isfinite(gradient).all()):
        raise not_finite()
    return Slope(gradient, rms(gradient), math.nan)


def rms(of: Tensor) -> float:
    """Return the root mean square of the values."""
    return float(of.norm()) / math.sqrt(of.numel())


def not_finite() -> RunError:
    """Return the error of a batch that has no finite loss anywhere near."""
    return RunError(
        "no loss near the edit is finite, so that it cannot be searched further",
        reason="nan",
        todo="lower the steps of the mode, or bound the edit (linf, clamp)",
    )


def _mean(of: Iterable[float]) -> float:
    values = list(of)
    return math.fsum(values) / len(values)
