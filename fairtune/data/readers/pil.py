"""PNG, JPEG, TIFF, BMP, WebP: whatever Pillow opens."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from fairtune.data.readers.base import READERS, Reader, scaled

_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


@READERS.register("pil")
class PilReader(Reader):
    """Pillow. Alpha is dropped; deep grey images are mapped from their full range onto 0..255.

    The full range is 0..65535 for 16-bit integers (and 32-bit ones, which Pillow uses for 16-bit
    PNG) and 0..1 for floats.
    """

    def read(self, content: bytes) -> Image.Image:
        """Return the first frame of the image."""
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if image.mode in _DEEP:
                top = 1.0 if image.mode == "F" else 65535.0
                return Image.fromarray(scaled(np.asarray(image), 0.0, top))
            if image.mode in ("1", "L", "LA", "La"):
                return image.convert("L")
            # A palette with byte transparency is converted through its alpha, as Pillow asks.
            if image.mode == "P" and "transparency" in image.info:
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
