"""Single DICOM files (needs the extra `medical`)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic
from PIL import Image

from fairtune.data.readers.base import READERS, Reader, scaled
from fairtune.errors import DataError


@READERS.register("dicom")
class DicomReader(Reader):
    """One single-frame grey DICOM file per image.

    Stored values become modality values by the rescale slope and intercept; these are mapped onto
    0..255 by a window. MONOCHROME1 (low values white) is inverted.

    Attributes:
        center: Window centre in modality values; None takes the file's first window, or the
            image's own range where the file has none.
        width: Window width, above 0; given together with `center`.
    """

    center: float | None = None
    width: float | None = pydantic.Field(default=None, gt=0)

    def read(self, content: bytes) -> Image.Image:
        """Return the windowed image."""
        try:
            import pydicom
        except ImportError:
            raise DataError(
                "reading DICOM needs pydicom", todo="pip install 'fairtune[medical]'"
            ) from None
        try:
            file = pydicom.dcmread(io.BytesIO(content))
            stored = file.pixel_array
        except (pydicom.errors.InvalidDicomError, AttributeError, RuntimeError, KeyError) as error:
            raise ValueError(f"not a DICOM image: {error}") from None
        if stored.ndim != 2:
            raise ValueError(f"expected one grey frame, found shape {stored.shape}")
        values = stored * float(getattr(file, "RescaleSlope", 1) or 1)
        values = values + float(getattr(file, "RescaleIntercept", 0) or 0)
        low, high = self._window(file, values)
        inverted = getattr(file, "PhotometricInterpretation", "") == "MONOCHROME1"
        return Image.fromarray(scaled(values, low, high, inverted=inverted))

    def _window(self, file: Any, values: npt.NDArray[Any]) -> tuple[float, float]:
        center, width = self.center, self.width
        if center is None or width is None:
            center, width = (
                _first(getattr(file, name, None)) for name in ("WindowCenter", "WindowWidth")
            )
        if center is None or width is None or width < 1:
            return float(np.min(values)), float(np.max(values))
        # DICOM PS3.3 C.11.2.1.2 (linear): the window spans width - 1 steps round centre - 0.5.
        half = max(width - 1.0, 1e-6) / 2.0
        return center - 0.5 - half, center - 0.5 + half


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        return float(value)
    except TypeError:
        return float(value[0])
