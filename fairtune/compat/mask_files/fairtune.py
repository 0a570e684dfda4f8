"""FairTune's `.npy` mask vectors (Raman1121/FairTune, `search_mask.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import pydantic

from fairtune.adaptation import ALIASES, Mask
from fairtune.adaptation.files import MASK_FILES
from fairtune.compat.masks import read_mask
from fairtune.config import Config
from fairtune.config.model import carried
from fairtune.errors import ConfigError, did_you_mean
from fairtune.models.units import Units


@MASK_FILES.register("fairtune")
class FairTuneVector(Config):
    """A vector of 0 and 1 in the order of one of FairTune's tuning methods.

    Attributes:
        layout: The tuning method: the file itself does not say which module a bit means.
    """

    suffix: ClassVar[str] = ".npy"

    layout: Annotated[str, pydantic.Field(description="FairTune tuning method")]

    @pydantic.field_validator("layout")
    @classmethod
    def _known(cls, layout: str) -> str:
        if layout not in ALIASES:
            raise carried(
                ConfigError(
                    "unknown FairTune tuning method",
                    found=layout,
                    allowed=list(ALIASES),
                    todo=did_you_mean(layout, ALIASES),
                )
            )
        return layout

    def read(self, path: Path, units: Units) -> Mask:
        """Return the mask in `path`."""
        return read_mask(path, self.layout, units)
