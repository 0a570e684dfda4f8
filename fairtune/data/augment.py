"""Augmentation of a whole batch in one resampling call, with its own parameters per sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

Flip = Literal["none", "horizontal", "both"]


class Augment(Protocol):
    """Draws parameters for many samples at once and applies them to batches."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `(count, p)` parameters on the generator's device."""
        ...

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Return `images` `(b, c, h, w)` changed by `parameters` `(b, p)` on their device."""
        ...


def rectangles(
    unit: Tensor, area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return left, top, width and height `(count,)` of rectangles, in shares of the image.

    Args:
        unit: `(count, 4)` uniform numbers in [0, 1).
        area: Range of the share of the area, uniform.
        ratio: Range of width / height relative to the image, log-uniform. A side that would be
            longer than the image is cut to it.
    """
    share = area[0] + (area[1] - area[0]) * unit[:, 0]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = torch.exp(low + (high - low) * unit[:, 1])
    width = (share * shape).sqrt().clamp(max=1.0)
    height = (share / shape).sqrt().clamp(max=1.0)
    return (1 - width) * unit[:, 2], (1 - height) * unit[:, 3], width, height


@dataclass(frozen=True)
class Light:
    """Random resized crop and mirroring.

    The crop has a share of the area uniform in `area` and an aspect ratio log-uniform in `ratio`;
    a side that would be longer than the image is cut to it, where torchvision draws again, so the
    number of draws never depends on the values drawn. The crop is resampled bilinearly without
    anti-aliasing (it is enlarged), its place is not rounded to pixels, and beyond the centre of
    the outermost pixels the image is continued by its edge.

    Attributes:
        flip: `none`, `horizontal`, or `both` for mirroring along each axis, each with
            probability 1/2.
        area: Least and greatest share of the area.
        ratio: Least and greatest width / height of the crop relative to the image.
    """

    flip: Flip = "none"
    area: tuple[float, float] = (0.7, 1.0)
    ratio: tuple[float, float] = (4 / 5, 5 / 4)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `(count, 6)`: left, top, width, height in shares of the image; signs of x, y."""
        unit = torch.rand(count, 6, generator=generator, device=generator.device)
        left, top, width, height = rectangles(unit[:, :4], self.area, self.ratio)
        x, y = (
            self._signs(unit[:, 4], self.flip != "none"),
            self._signs(unit[:, 5], self.flip == "both"),
        )
        return torch.stack([left, top, width, height, x, y], dim=1)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Return the crops at the size of `images`."""
        left, top, width, height, x, y = parameters.to(images.dtype).unbind(1)
        zero = torch.zeros_like(left)
        # affine_grid maps output to input places, both in [-1, 1] over the image.
        theta = torch.stack(
            [
                torch.stack([width * x, zero, 2 * left + width - 1], dim=1),
                torch.stack([zero, height * y, 2 * top + height - 1], dim=1),
            ],
            dim=1,
        )
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        return functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="border", align_corners=False
        )

    @staticmethod
    def _signs(unit: Tensor, on: bool) -> Tensor:
        return torch.where(unit < 0.5, -1.0, 1.0) if on else torch.ones_like(unit)
