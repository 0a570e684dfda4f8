"""Rotation, crop and mirroring of a batch in one resampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fairtune.data.augment import Flip, Light


@dataclass(frozen=True)
class Geometry:
    """Rotation about the centre, then crop and mirroring as in `Light`, resampled once.

    Angles are uniform in `degrees` either way. What lies beyond the image is its mirror image.

    Attributes:
        flip: `none`, `horizontal`, or `both`.
        area: Least and greatest share of the area of the crop.
        ratio: Least and greatest width / height of the crop relative to the image.
        degrees: Greatest angle.
    """

    flip: Flip = "none"
    area: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (1.0, 1.0)
    degrees: float = 0.0

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `(count, 7)`: what `Light.draw` returns, and the angle, counter-clockwise."""
        crop = Light(self.flip, self.area, self.ratio).draw(count, generator)
        unit = torch.rand(count, 1, generator=generator, device=generator.device)
        return torch.cat([crop, math.radians(self.degrees) * (2 * unit - 1)], dim=1)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Return the turned crops at the size of `images`."""
        left, top, width, height, x, y, angle = parameters.to(images.dtype).unbind(1)
        cos, sin = angle.cos(), angle.sin()
        # Shares of height and width are no lengths: an angle is one only in pixels.
        tall = images.shape[-2] / images.shape[-1]
        middle_x, middle_y = 2 * left + width - 1, 2 * top + height - 1
        across = [
            cos * width * x,
            -sin * tall * height * y,
            cos * middle_x - sin * tall * middle_y,
        ]
        down = [sin / tall * width * x, cos * height * y, sin / tall * middle_x + cos * middle_y]
        theta = torch.stack([torch.stack(across, dim=1), torch.stack(down, dim=1)], dim=1)
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        return functional.grid_sample(
            images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )
