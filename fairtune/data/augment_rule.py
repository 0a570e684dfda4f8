"""How strongly images of a data set may be changed without changing what they show."""

from __future__ import annotations

from typing import Annotated

import pydantic

from fairtune.config import Config

Share = Annotated[float, pydantic.Field(ge=0, le=1)]


class AugmentRule(Config):
    """Ranges of the augmentation `medical`; whatever is left out stays as it is.

    Attributes:
        crop: Least share of the area that a random crop keeps.
        rotate: Greatest angle in degrees, either way; 180 for images without an upright.
        brightness: Factor of the pixels, uniform in 1 - b to 1 + b.
        contrast: Factor of the distance from the image's mean grey, likewise.
        saturation: Factor of the distance from each pixel's grey, likewise.
        hue: Greatest turn of the hue either way, in shares of the colour circle.
        blur: Greatest standard deviation of a Gaussian blur in pixels.
        erase: Probability that a rectangle of 2 to 10 % of the area gets the image's mean colour.
    """

    crop: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0
    rotate: Annotated[float, pydantic.Field(ge=0, le=180)] = 0.0
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, pydantic.Field(ge=0, le=0.5)] = 0.0
    blur: Annotated[float, pydantic.Field(ge=0, le=2)] = 0.0
    erase: Share = 0.0
