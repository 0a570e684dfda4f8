"""A cut-off and a side per unit type: two parameters a type, whatever the depth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fairtune.adaptation.extent import Extent, edges, from_none_to_all, live_blocks
from fairtune.adaptation.mask import Mask
from fairtune.adaptation.spaces import SPACES
from fairtune.adaptation.spans import cut_dimensions, cut_params, cut_span, edge_spans, fit
from fairtune.adaptation.switches import DEFAULT_TYPES, Switches, Types
from fairtune.config import Config, Dimension
from fairtune.models.units import Units


@SPACES.register("cutoff")
class Cutoff(Config):
    """Of each type the blocks below (`first`) or above (`last`) a cut-off train.

    `TYPE.cut` is a share of the depth in [0, 1], `TYPE.side` one of `first` and `last`. A block
    lies below the cut-off when its middle does. Uniform parameters give each of the `2 * depth`
    spans of a type the same probability.

    Attributes:
        types: Unit types of the model spec; `attn+norm` has one cut-off for both.
        always: Units or types that train in every mask.
    """

    types: Types = DEFAULT_TYPES
    always: tuple[str, ...] = ()

    def dimensions(self, units: Units) -> dict[str, Dimension]:
        """Return a share and a side for each type.

        Raises:
            ModelError: The model has no such type.
        """
        self._switches(units)
        return {n: d for kind in self.types for n, d in cut_dimensions(kind).items()}

    def decode(self, params: Mapping[str, Any], units: Units) -> Mask:
        """Return the mask of all types' spans."""
        on = ((d, k) for k in self.types for d in cut_span(k, params, units.depth))
        return self._switches(units).mask(on)

    def encode(self, mask: Mask, units: Units) -> dict[str, Any] | None:
        """Return cut-offs on the border of two blocks; `last` where both sides would do."""
        found = fit(mask, self._switches(units), edge_spans(units.depth))
        if found is None:
            return None
        depth = units.depth
        return {n: v for k, s in found.spans.items() for n, v in cut_params(k, s, depth).items()}

    def extent(self, units: Units) -> Extent:
        """Return the product of `2 * depth` over the types."""
        switches = self._switches(units)
        return from_none_to_all(math.prod(map(edges, live_blocks(switches))), switches)

    def _switches(self, units: Units) -> Switches:
        return Switches.of(self.types, self.always, units)
