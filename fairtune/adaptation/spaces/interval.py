"""An interval of depth per unit type: two shares a type, whatever the depth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fairtune.adaptation.extent import Extent, from_none_to_all, live_blocks
from fairtune.adaptation.mask import Mask
from fairtune.adaptation.spaces import SPACES
from fairtune.adaptation.spans import all_spans, fit
from fairtune.adaptation.switches import DEFAULT_TYPES, Switches, Types
from fairtune.config import Config, Dimension, Float
from fairtune.models.units import Units


@SPACES.register("interval")
class Interval(Config):
    """Of each type the blocks between two shares of the depth train.

    `TYPE.lo` and `TYPE.hi` are in [0, 1], which is cut into `depth + 1` equal parts, one for each
    border between blocks. Uniform parameters so give every interval the same probability; were
    the nearest border taken, those that hold the first or last block, which matter most, would
    be half as likely as others. The ends are taken in either order: every point is a mask, and
    half of the square is not wasted on the empty one.

    Attributes:
        types: Unit types of the model spec; `attn+norm` has one interval for both.
        always: Units or types that train in every mask.
    """

    types: Types = DEFAULT_TYPES
    always: tuple[str, ...] = ()

    def dimensions(self, units: Units) -> dict[str, Dimension]:
        """Return two shares for each type.

        Raises:
            ModelError: The model has no such type.
        """
        kinds = self._switches(units).depths
        return {f"{kind}.{end}": Float(0.0, 1.0) for kind in kinds for end in ("lo", "hi")}

    def decode(self, params: Mapping[str, Any], units: Units) -> Mask:
        """Return the mask of all types' intervals."""
        switches, on = self._switches(units), []
        for kind, depth in switches.depths.items():
            ends = (_border(params[f"{kind}.{end}"], depth) for end in ("lo", "hi"))
            on += [(block, kind) for block in range(*sorted(ends))]
        return switches.mask(on)

    def encode(self, mask: Mask, units: Units) -> dict[str, Any] | None:
        """Return ends on the border of two blocks, the lower one in `lo`."""
        switches = self._switches(units)
        found = fit(mask, switches, all_spans)
        if found is None:
            return None
        params: dict[str, Any] = {}
        for kind, span in found.spans.items():
            params[f"{kind}.lo"] = span.start / switches.depths[kind]
            params[f"{kind}.hi"] = span.stop / switches.depths[kind]
        return params

    def extent(self, units: Units) -> Extent:
        """Return the product of `depth * (depth + 1) / 2 + 1` over the types."""
        switches = self._switches(units)
        counts = (live * (live + 1) // 2 + 1 for live in live_blocks(switches))
        return from_none_to_all(math.prod(counts), switches)

    def _switches(self, units: Units) -> Switches:
        return Switches.of(self.types, self.always, units)


def _border(share: float, depth: int) -> int:
    """Return the number of blocks before the border that `share` means."""
    return min(depth, int(share * (depth + 1)))
