"""One switch per block and unit type: the search space of FairTune (Dutt et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairtune.adaptation.extent import Extent, from_none_to_all
from fairtune.adaptation.mask import Mask
from fairtune.adaptation.spaces import SPACES
from fairtune.adaptation.switches import ALL_BLOCKS, DEFAULT_TYPES, Blocks, Switches, Types
from fairtune.config import Choice, Config, Dimension
from fairtune.models.units import Units


@SPACES.register("bits")
class Bits(Config):
    """A boolean `TYPE.DEPTH` for every type and block, interleaved by block.

    Attributes:
        types: Unit types of the model spec; `attn+norm` is one switch for both.
        always: Units or types that train in every mask, as `tune_attention_params_random` does
            with the position embedding.
        blocks: Blocks that have switches, as in a mask rule: `last-3`. What stands before the
            first of them is never trained, so a search computes it once.
    """

    types: Types = DEFAULT_TYPES
    always: tuple[str, ...] = ()
    blocks: Blocks = ALL_BLOCKS

    def dimensions(self, units: Units) -> dict[str, Dimension]:
        """Return `depth x types` booleans.

        Raises:
            ModelError: The model has no such type or block.
        """
        members = self.switches(units).members
        return {f"{kind}.{depth}": Choice((False, True)) for depth, kind in members}

    def decode(self, params: Mapping[str, Any], units: Units) -> Mask:
        """Return the union of the units of every switch that is on."""
        switches = self.switches(units)
        return switches.mask(s for s in switches.members if params[f"{s[1]}.{s[0]}"])

    def encode(self, mask: Mask, units: Units) -> dict[str, Any] | None:
        """Switch on whatever lies wholly inside the mask; None when that is not the mask."""
        params = self.within(mask, units)
        return params if self.decode(params, units) == mask else None

    def extent(self, units: Units) -> Extent:
        """Return 2 to the number of switches that change the mask."""
        switches = self.switches(units)
        return from_none_to_all(2 ** len(switches.gains), switches)

    def within(self, mask: Mask, units: Units) -> dict[str, bool]:
        """Return the point whose switches are on exactly where all their units are in `mask`."""
        switches = self.switches(units)
        inside = set(switches.inside(mask))
        return {f"{s[1]}.{s[0]}": s in inside for s in switches.members}

    def switches(self, units: Units) -> Switches:
        """Return the switches of the space in a model with `units`."""
        return Switches.of(self.types, self.always, units, self.blocks)
