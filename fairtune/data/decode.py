"""From the bytes of one image file to a square 8-bit array."""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from fairtune.data.images import ImageFiles
from fairtune.data.readers.base import Reader
from fairtune.errors import DataError

PROTOCOL = 1
"""Rises whenever equal files decode to other pixels."""

Pixels: TypeAlias = npt.NDArray[np.uint8]

_GAP = 3.0
_UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
    NotImplementedError,
)


@dataclass(frozen=True)
class Decoder:
    """Reads, decodes and resizes.

    Attributes:
        reader: Decodes the bytes.
        resize: `squash`, `crop` or `pad`.
        size: Height and width of the result.
        channels: 1 or 3.
    """

    reader: Reader
    resize: str
    size: int
    channels: int

    def __call__(self, files: ImageFiles, name: str) -> tuple[Pixels, str]:
        """Return `(size, size, channels)` uint8 and the SHA-256 of the file.

        Raises:
            DataError: The file is missing, truncated or not an image.
        """
        try:
            content = files.read(name)
            image = self.reader.read(content)
            return self.square(image), hashlib.sha256(content).hexdigest()
        except _UNREADABLE as error:
            raise DataError(
                "the image cannot be read",
                where=name,
                found=str(error) or type(error).__name__,
                todo="replace the file, or filter its row out",
            ) from None

    def square(self, image: Image.Image) -> Pixels:
        """Return the image as `(size, size, channels)`, bicubic with anti-aliasing."""
        image = image.convert("L" if self.channels == 1 else "RGB")
        target = (self.size, self.size)
        if self.resize == "crop":
            image = ImageOps.fit(image, target, Image.Resampling.BICUBIC)
        elif self.resize == "pad":
            image = ImageOps.pad(image, target, Image.Resampling.BICUBIC)
        elif image.size != target:
            image = image.resize(target, Image.Resampling.BICUBIC, reducing_gap=_GAP)
        return np.asarray(image, dtype=np.uint8).reshape(self.size, self.size, self.channels)
