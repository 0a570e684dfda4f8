"""Image readers: one file each, found by name in a dataset spec."""

from fairtune.data.readers.base import READERS, Reader

__all__ = ["READERS", "Reader"]
