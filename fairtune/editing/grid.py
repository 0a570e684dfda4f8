"""The grid of an edit that is searched: from a flat point to pixels, and its bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fairtune.editing.edit import EIGHT_BIT, shown
from fairtune.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.editing.edits.dne import Dne
    from fairtune.editing.scene import Scene


@dataclass(frozen=True)
class Grid:
    """Where the values of an edit stand.

    Attributes:
        channels: 1, or those of the images.
        cells: Cells along a side, at most `image_size`.
        image_size: Side of the images in pixels.
        limit: Largest absolute value that a cell may have; infinite for none.
    """

    channels: int
    cells: int
    image_size: int
    limit: float = math.inf

    @property
    def size(self) -> int:
        """Number of values d."""
        return self.channels * self.cells**2

    def value(self, point: Tensor) -> Tensor:
        """Return a flat point `(d,)` as `(channels, cells, cells)`."""
        return point.reshape(self.channels, self.cells, self.cells)

    def full(self, point: Tensor) -> Tensor:
        """Return a flat point as pixels `(channels, image_size, image_size)`; differentiable."""
        return shown(self.value(point), self.image_size)

    def bounded(self, point: Tensor) -> Tensor:
        """Return the nearest point with no value beyond the limit."""
        return point if math.isinf(self.limit) else point.clamp(-self.limit, self.limit)


def grid_of(rule: Dne, scene: Scene) -> Grid:
    """Return the grid that `rule` asks for on the images of `scene`.

    Raises:
        ModelError: More cells than pixels, or channels that the images do not have.
    """
    if rule.noise_resolution > scene.image_size:
        raise ModelError(
            "the grid of the edit is finer than the image",
            where="noise_resolution",
            found=rule.noise_resolution,
            allowed=f"at most {scene.image_size}, or 0 for every pixel",
        )
    if rule.channels not in (1, scene.channels):
        raise ModelError(
            "the edit has another number of channels than the images",
            where="channels",
            found=rule.channels,
            allowed=sorted({1, scene.channels}),
        )
    cells = rule.noise_resolution or scene.image_size
    return Grid(rule.channels, cells, scene.image_size, limit(rule.linf, rule.clamp))


def limit(linf: int, clamp: bool) -> float:
    """Return the largest float32 not above `linf` / 255.

    Without `linf` an edit that is clamped is bounded by 1 all the same: what goes beyond changes
    no edited image and would only let norms grow.
    """
    if not linf:
        return 1.0 if clamp else math.inf
    bound = np.float32(linf / EIGHT_BIT)
    exact = float(bound) * EIGHT_BIT <= linf
    return float(bound if exact else np.nextafter(bound, np.float32(0)))


def start(grid: Grid, std: float, generator: torch.Generator) -> Tensor:
    """Return `(d,)` where a search starts: Gaussian of SD `std`, within the bounds."""
    drawn = torch.randn(grid.size, generator=generator) * std
    return grid.bounded(drawn)
