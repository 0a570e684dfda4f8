"""One array of an `.npz` file."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from fairtune.data.readers.base import READERS, Reader
from fairtune.data.readers.npy import Scale, image_of


@READERS.register("npz")
class NpzReader(Reader):
    """The array `key` of each file. Pickled objects are refused.

    Attributes:
        key: Name of the array.
        scale: How values map to 0..255: `as_is`, `unit` (from 0..1) or `minmax` (per image).
    """

    key: str
    scale: Scale = "as_is"

    def read(self, content: bytes) -> Image.Image:
        """Return the array as an image."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            if self.key not in arrays.files:
                raise ValueError(f"no array '{self.key}'; there are {arrays.files}")
            return image_of(arrays[self.key], self.scale)
