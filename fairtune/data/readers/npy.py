"""NumPy arrays: `.npy`, and one array of an `.npz`."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from fairtune.data.readers.base import READERS, Reader, scaled

Scale = Literal["as_is", "unit", "minmax"]


def image_of(pixels: npt.NDArray[Any], scale: Scale) -> Image.Image:
    """Return an array of shape `(h, w)`, `(h, w, 1)` or `(h, w, 3)` as an image.

    Args:
        pixels: The array.
        scale: `as_is` keeps 0..255, `unit` maps 0..1, `minmax` maps the array's own range.

    Raises:
        ValueError: Another shape, values that are not finite, or `as_is` values outside 0..255
            or, as floats, within 0..1.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        raise ValueError(f"shape {pixels.shape} is neither (h, w), (h, w, 1) nor (h, w, 3)")
    if pixels.dtype.kind not in "buif" or not np.isfinite(pixels).all():
        raise ValueError(f"values are not finite numbers (dtype {pixels.dtype})")
    low, high = float(pixels.min()), float(pixels.max())
    if scale == "as_is":
        if low < 0 or high > 255:
            raise ValueError(
                f"values {low:g}..{high:g} lie outside 0..255; set the reader's scale"
            )
        if pixels.dtype.kind == "f" and 0 < high <= 1:
            raise ValueError(
                f"fractions of at most {high:g} would turn black; set the reader's `scale: unit`"
            )
        return Image.fromarray(pixels.astype(np.uint8))
    ends = (0.0, 1.0) if scale == "unit" else (low, high)
    return Image.fromarray(scaled(pixels, *ends))


@READERS.register("npy")
class NpyReader(Reader):
    """One array per file. Pickled objects are refused.

    Attributes:
        scale: How values map to 0..255: `as_is`, `unit` (from 0..1) or `minmax` (per image).
    """

    scale: Scale = "as_is"

    def read(self, content: bytes) -> Image.Image:
        """Return the array as an image."""
        return image_of(np.load(io.BytesIO(content), allow_pickle=False), self.scale)
