"""Loss of detail: blur and erased rectangles, with parameters per sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fairtune.data.augment import rectangles

_LEAST_SIGMA = 1e-3
"""Below it a blur leaves every pixel as it is, and its exponents would leave the float range."""


@dataclass(frozen=True)
class Blur:
    """Gaussian blur with a standard deviation uniform in 0 to `sigma` pixels.

    The kernel has `2 * ceil(2 * sigma) + 1` pixels a side for every sample, is normalised over
    them, and the image is continued by its mirror image.

    Attributes:
        sigma: Greatest standard deviation.
    """

    sigma: float

    @property
    def reach(self) -> int:
        """Pixels of the kernel to either side of its middle."""
        return math.ceil(2 * self.sigma)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `(count, 1)` standard deviations."""
        return self.sigma * torch.rand(count, 1, generator=generator, device=generator.device)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Return the blurred images, each channel by itself."""
        b, c, h, w = images.shape
        sigma = parameters.to(images.dtype).clamp(min=_LEAST_SIGMA)
        steps = torch.arange(-self.reach, self.reach + 1, device=images.device)
        kernel = torch.exp(-0.5 * (steps.to(images.dtype) / sigma) ** 2)
        kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(c, dim=0)
        planes = functional.pad(images, [self.reach] * 4, mode="reflect").view(
            1, b * c, h + 2 * self.reach, -1
        )
        across = functional.conv2d(planes, kernel[:, None, None, :], groups=b * c)
        return functional.conv2d(across, kernel[:, None, :, None], groups=b * c).view(b, c, h, w)


@dataclass(frozen=True)
class Erase:
    """A rectangle gets the mean colour of its image (random erasing, Zhong et al., AAAI 2020).

    Its share of the area is uniform in `area` and its aspect ratio log-uniform in `ratio`. The
    paper fills with noise and draws again until the rectangle fits; a side longer than the image
    is cut here, so that the number of draws never depends on the values drawn.

    Attributes:
        probability: Share of the samples that get one.
        area: Least and greatest share of the area.
        ratio: Least and greatest width / height relative to the image.
    """

    probability: float
    area: tuple[float, float] = (0.02, 0.1)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `(count, 4)`: left, top, width and height in shares; width 0 for no rectangle."""
        unit = torch.rand(count, 5, generator=generator, device=generator.device)
        left, top, width, height = rectangles(unit[:, :4], self.area, self.ratio)
        chosen = unit[:, 4] < self.probability
        return torch.stack([left, top, torch.where(chosen, width, 0.0), height], dim=1)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Return the images with their rectangles, whose ends are rounded to pixels."""
        left, top, width, height = parameters.unbind(1)
        inside = _between(top, height, images.shape[-2])[:, :, None]
        inside = inside & _between(left, width, images.shape[-1])[:, None, :]
        mean = images.mean(dim=(2, 3), keepdim=True)
        return torch.where(inside[:, None], mean, images)


def _between(start: Tensor, extent: Tensor, length: int) -> Tensor:
    """Return `(b, length)`: which pixels lie in `[start, start + extent)`, in rounded shares."""
    pixel = torch.arange(length, device=start.device)
    first, end = (start * length).round(), ((start + extent) * length).round()
    return (pixel >= first[:, None]) & (pixel < end[:, None])
