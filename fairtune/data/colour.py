"""Brightness, contrast, saturation and hue of images in [0, 1], with a factor per sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601, as torchvision rounds them)."""


@dataclass(frozen=True)
class Brightness:
    """Pixels times a factor uniform in 1 - strength to 1 + strength, cut to [0, 1]."""

    strength: float

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `(count, 1)` factors."""
        return _factors(self.strength, count, generator)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Return the images, lighter or darker."""
        return (images * _wide(parameters, images)).clamp(0, 1)


@dataclass(frozen=True)
class Contrast:
    """Distance from the mean grey of the image times such a factor."""

    strength: float

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `(count, 1)` factors."""
        return _factors(self.strength, count, generator)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Return the images with more or less contrast."""
        mean = grey(images).mean(dim=(1, 2, 3), keepdim=True)
        return torch.lerp(mean, images, _wide(parameters, images)).clamp(0, 1)


@dataclass(frozen=True)
class Saturation:
    """Distance of every pixel from its grey times such a factor; one channel has none."""

    strength: float

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `(count, 1)` factors."""
        return _factors(self.strength, count, generator)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Return the images with more or less colour."""
        return torch.lerp(grey(images), images, _wide(parameters, images)).clamp(0, 1)


@dataclass(frozen=True)
class Hue:
    """Hue turned by a share of the circle uniform in -strength to strength, in HSV space."""

    strength: float

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return `(count, 1)` shares of the circle."""
        return _factors(self.strength, count, generator) - 1

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Return the images with turned hue; images of one channel as they are."""
        if images.shape[1] != 3:
            return images
        red, green, blue = images.unbind(1)
        value, chroma = images.amax(dim=1), images.amax(dim=1) - images.amin(dim=1)
        # Where there is no chroma every hue gives the same pixel.
        size = torch.where(chroma > 0, chroma, 1.0)
        sixth = torch.where(
            value == red,
            (green - blue) / size,
            torch.where(value == green, 2 + (blue - red) / size, 4 + (red - green) / size),
        )
        turned = sixth + 6 * parameters.to(images.dtype).view(-1, 1, 1)
        # Channel n of a colour of hue h is V - C * clip(min(k, 4 - k), 0, 1), k = (n + 6h) mod 6.
        k = torch.stack([(n + turned) % 6 for n in (5, 3, 1)], dim=1)
        return value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """Return `(b, 1, h, w)` luminance of `(b, 3, h, w)`; one channel is its own."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    weight = torch.tensor(_LUMA, dtype=images.dtype).to(images.device).view(3, 1, 1)
    return (images * weight).sum(dim=1, keepdim=True)


def _factors(strength: float, count: int, generator: torch.Generator) -> Tensor:
    unit = torch.rand(count, 1, generator=generator, device=generator.device)
    return 1 + strength * (2 * unit - 1)


def _wide(parameters: Tensor, images: Tensor) -> Tensor:
    return parameters.to(images.dtype).view(-1, 1, 1, 1)
