"""One switch per block and unit type: the search space of FairTune (Dutt et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic

from fairtune.adaptation.mask import Mask
from fairtune.adaptation.spaces import SPACES
from fairtune.config import Choice, Config, Dimension
from fairtune.config.model import carried
from fairtune.errors import ConfigError
from fairtune.models.units import Units


@SPACES.register("bits")
class Bits(Config):
    """A boolean `TYPE.DEPTH` for every type and block, interleaved by block.

    Attributes:
        types: Unit types of the model spec; `attn+norm` is one switch for both.
        always: Units or types that train in every mask, as `tune_attention_params_random` does
            with the position embedding.
    """

    types: tuple[str, ...] = pydantic.Field(min_length=1)
    always: tuple[str, ...] = ()

    @pydantic.field_validator("types")
    @classmethod
    def _distinct(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({kind for kind in types if types.count(kind) > 1})
        if twice:
            raise carried(ConfigError("a unit type stands here more than once", found=twice))
        return types

    def dimensions(self, units: Units) -> dict[str, Dimension]:
        """Return `depth x types` booleans.

        Raises:
            ModelError: The model has no such type.
        """
        self.fixed(units)
        for kind in self.types:
            units.by_depth(kind)
        return {f"{kind}.{depth}": Choice((False, True)) for depth, kind in self.switches(units)}

    def decode(self, params: Mapping[str, Any], units: Units) -> Mask:
        """Return the union of the units of every switch that is on."""
        names = set(self.fixed(units))
        for depth, kind in self.switches(units):
            if params[f"{kind}.{depth}"]:
                names.update(_members(kind, depth, units))
        return Mask.of(names, units)

    def encode(self, mask: Mask, units: Units) -> dict[str, Any] | None:
        """Switch on whatever lies wholly inside the mask; None when that is not the mask."""
        params = self.within(mask, units)
        return params if self.decode(params, units) == mask else None

    def within(self, mask: Mask, units: Units) -> dict[str, bool]:
        """Return the point whose switches are on exactly where all their units are in `mask`."""
        inside = set(mask.units)
        return {
            f"{kind}.{depth}": _members(kind, depth, units) <= inside
            for depth, kind in self.switches(units)
        }

    def switches(self, units: Units) -> list[tuple[int, str]]:
        """Return `(depth, type)` of every switch, block by block."""
        return [(depth, kind) for depth in range(units.depth) for kind in self.types]

    def fixed(self, units: Units) -> set[str]:
        """Return the units that train in every mask of the space."""
        names: set[str] = set()
        for item in self.always:
            if item in units.names:
                names.add(item)
            else:
                names.update(n for depth in range(units.depth) for n in units.of(item, depth))
        return names


def _members(kind: str, depth: int, units: Units) -> set[str]:
    return {name for part in kind.split("+") for name in units.of(part, depth)}
