"""Mask files of other tools, read by members of a registry."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from fairtune.adaptation.mask import Mask
from fairtune.config import Config, Registry
from fairtune.models.units import Units

MASK_FILES: Registry[Config] = Registry("mask file", "fairtune.compat.mask_files", optional=True)


@runtime_checkable
class MaskFile(Protocol):
    """A format of masks. Its fields are what the file itself does not say.

    Attributes:
        suffix: End of the file's name.
    """

    suffix: ClassVar[str]

    def read(self, path: Path, units: Units) -> Mask:
        """Return the mask in `path` for a model with `units`."""


def format_of(path: str) -> str | None:
    """Return the name of the format whose suffix `path` has, or None."""
    for name in MASK_FILES:
        suffix = getattr(MASK_FILES.get(name), "suffix", None)
        if suffix is not None and path.endswith(suffix):
            return name
    return None
