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
        kinds = self._switches(units).depths
        return {n: d for kind in kinds for n, d in cut_dimensions(kind).items()}

    def decode(self, params: Mapping[str, Any], units: Units) -> Mask:
        """Return the mask of all types' spans."""
        switches = self._switches(units)
        on = ((d, k) for k, n in switches.depths.items() for d in cut_span(k, params, n))
        return switches.mask(on)

    def encode(self, mask: Mask, units: Units) -> dict[str, Any] | None:
        """Return cut-offs on the border of two blocks; `last` where both sides would do."""
        switches = self._switches(units)
        found = fit(mask, switches, edge_spans)
        if found is None:
            return None
        return {
            name: value
            for kind, span in found.spans.items()
            for name, value in cut_params(kind, span, switches.depths[kind]).items()
        }

    def extent(self, units: Units) -> Extent:
        """Return the product of `2 * depth` over the types."""
        switches = self._switches(units)
        return from_none_to_all(math.prod(map(edges, live_blocks(switches))), switches)

    def _switches(self, units: Units) -> Switches:
        return Switches.of(self.types, self.always, units)
