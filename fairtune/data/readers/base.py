"""What an image reader is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fairtune.config import Config, Registry


class Reader(Config):
    """Turns the bytes of one file into an 8-bit image."""

    def read(self, content: bytes) -> Image.Image:
        """Return an image of mode `L` or `RGB`.

        Args:
            content: The whole file.

        Raises:
            ValueError: The bytes are not an image that this reader knows.
        """
        raise NotImplementedError


READERS: Registry[Reader] = Registry("reader", "fairtune.data.readers")


def scaled(
    pixels: npt.NDArray[Any], low: float, high: float, *, inverted: bool = False
) -> npt.NDArray[np.uint8]:
    """Map `[low, high]` linearly onto 0..255 and clip what lies outside.

    An image of one value (`low == high`) becomes black, or white when inverted.
    """
    span = (high - low) or 1.0
    unit = np.clip((pixels.astype(np.float64) - low) / span, 0.0, 1.0)
    return np.round((1.0 - unit if inverted else unit) * 255.0).astype(np.uint8)
