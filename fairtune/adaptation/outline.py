"""What a mask space would mean for one model, before a study is written."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fairtune.adaptation.extent import Extent
from fairtune.adaptation.spaces import read_space
from fairtune.config import Choice, Config, Dimension, canonical_json
from fairtune.config.registry import written
from fairtune.config.yaml12 import loads
from fairtune.models.units import Units

_WRITTEN_OUT = 10**15


@dataclass(frozen=True)
class Outline:
    """A mask space in one model.

    Attributes:
        space: The space with every field, as `{NAME: {FIELD: value}}`.
        parameters: What a study would search, by name.
        extent: How many masks it has, and how small and large they are.
        total: Parameters of the model, without the head.
    """

    space: dict[str, Any]
    parameters: dict[str, Dimension]
    extent: Extent
    total: int

    @property
    def shares(self) -> tuple[float, float]:
        """Share of the model's parameters in the smallest and in the largest mask, in [0, 1]."""
        return self.extent.least / self.total, self.extent.most / self.total

    @property
    def ranges(self) -> dict[str, str]:
        """Range of each parameter in words."""
        return {name: _words(dimension) for name, dimension in self.parameters.items()}

    def __str__(self) -> str:
        extent, (least, most) = self.extent, self.shares
        count = extent.masks
        masks = f"{count:,}" if count < _WRITTEN_OUT else f"{Decimal(count):.2e}"
        bound = ("", "") if extent.exact else ("at most ", " at most")
        return "\n".join(
            (
                f"space       {canonical_json(self.space)}",
                f"parameters  {len(self.parameters)} of the study",
                f"masks       {bound[0]}{masks}",
                f"train       {least:.2%} to{bound[1]} {most:.2%} of {self.total:,} parameters"
                " without the head",
            )
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "space": self.space,
            "parameters": [{"name": n, **d.to_json()} for n, d in self.parameters.items()],
            "masks": self.extent.masks,
            "exact": self.extent.exact,
            "shares": list(self.shares),
        }


def outline(text: str, units: Units) -> Outline:
    """Return what a space means in a model with `units`.

    Args:
        text: A space's name, one of FairTune's, or YAML such as `cutoff: {types: [norm, attn]}`.
        units: Units of the model.

    Raises:
        ConfigError: Not a mask space.
        ModelError: The space does not fit the model.
    """
    _, space = read_space(loads(text, "the mask space").data)
    assert isinstance(space, Config)
    return Outline(written(space), space.dimensions(units), space.extent(units), units.total)


def _words(dimension: Dimension) -> str:
    if isinstance(dimension, Choice):
        return " | ".join(
            o if isinstance(o, str) else canonical_json(o) for o in dimension.options
        )
    return f"{dimension.low:g} to {dimension.high:g}"
