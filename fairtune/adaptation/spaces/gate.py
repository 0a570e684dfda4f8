"""A linear gate over depth per unit type: two real numbers a type, whatever the depth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fairtune.adaptation.extent import Extent, edges, from_none_to_all, live_blocks
from fairtune.adaptation.mask import Mask
from fairtune.adaptation.spaces import SPACES
from fairtune.adaptation.spans import edge_spans, fit, middle_of
from fairtune.adaptation.switches import DEFAULT_TYPES, Switches, Types
from fairtune.config import Config, Dimension, Float
from fairtune.models.units import Units


@SPACES.register("gate")
class Gate(Config):
    """Of each type the blocks train for which `offset + slope * z > 0`.

    `z` in (-1, 1) is the depth of the block's middle, `TYPE.offset` and `TYPE.slope` are in
    [-1, 1]. The masks are those of `cutoff`, written with real numbers only, which suits samplers
    that know no choices; uniform parameters switch a type wholly off or on half of the time.

    Attributes:
        types: Unit types of the model spec; `attn+norm` has one gate for both.
        always: Units or types that train in every mask.
    """

    types: Types = DEFAULT_TYPES
    always: tuple[str, ...] = ()

    def dimensions(self, units: Units) -> dict[str, Dimension]:
        """Return an offset and a slope for each type.

        Raises:
            ModelError: The model has no such type.
        """
        kinds = self._switches(units).depths
        return {f"{k}.{name}": Float(-1.0, 1.0) for k in kinds for name in ("offset", "slope")}

    def decode(self, params: Mapping[str, Any], units: Units) -> Mask:
        """Return the mask of every switch whose gate is open."""
        switches = self._switches(units)
        on = [
            (block, kind)
            for kind, depth in switches.depths.items()
            for block in range(depth)
            if params[f"{kind}.offset"] + params[f"{kind}.slope"] * _height(block, depth) > 0
        ]
        return switches.mask(on)

    def encode(self, mask: Mask, units: Units) -> dict[str, Any] | None:
        """Return gates that change sign on the border of two blocks."""
        switches = self._switches(units)
        found = fit(mask, switches, edge_spans)
        if found is None:
            return None
        params: dict[str, Any] = {}
        for kind, span in found.spans.items():
            offset, slope = _gate(span, switches.depths[kind])
            params |= {f"{kind}.offset": offset, f"{kind}.slope": slope}
        return params

    def extent(self, units: Units) -> Extent:
        """Return the product of `2 * depth` over the types."""
        switches = self._switches(units)
        return from_none_to_all(math.prod(map(edges, live_blocks(switches))), switches)

    def _switches(self, units: Units) -> Switches:
        return Switches.of(self.types, self.always, units)


def _height(block: int, depth: int) -> float:
    """Return the depth of the middle of `block`, in (-1, 1)."""
    return 2 * middle_of(block, depth) - 1


def _gate(span: range, depth: int) -> tuple[float, float]:
    """Return offset and slope of one of `edge_spans`, half-way into their range."""
    if len(span) in (0, depth):
        return (0.5 if span else -0.5), 0.0
    if span.stop == depth:
        return 0.5 - span.start / depth, 0.5
    return span.stop / depth - 0.5, -0.5
