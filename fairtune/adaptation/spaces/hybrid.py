"""Cut-offs with a few exceptions: most masks worth trying, in few parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from fairtune.adaptation.extent import (
    Extent,
    from_none_to_all,
    live_blocks,
    near_edges,
    within_flips,
)
from fairtune.adaptation.mask import Mask
from fairtune.adaptation.spaces import SPACES
from fairtune.adaptation.spans import (
    block_at,
    cut_dimensions,
    cut_params,
    cut_span,
    edge_spans,
    fit,
    middle_of,
)
from fairtune.adaptation.switches import DEFAULT_TYPES, Switches, Types
from fairtune.config import Choice, Config, Dimension, Float
from fairtune.models.units import Units

NO_FLIP = "none"


@SPACES.register("hybrid")
class Hybrid(Config):
    """The cut-offs of `cutoff`, then up to `flips` single switches turned the other way.

    Each flip `i` is two parameters that every trial has: `flip.i.type`, a type or `none`, and
    `flip.i.at`, the share of the depth in [0, 1] that lies in the block meant; with `none` the
    share means nothing. A switch that two flips name is flipped once. So there are no conditional
    parameters, every point is a mask, and a flip means the same in a model of another depth.

    Attributes:
        types: Unit types of the model spec; `attn+norm` is one switch for both.
        always: Units or types that train in every mask.
        flips: The most switches that differ from the cut-offs.
    """

    types: Types = DEFAULT_TYPES
    always: tuple[str, ...] = ()
    flips: Annotated[int, pydantic.Field(ge=1, le=64)] = 4

    def dimensions(self, units: Units) -> dict[str, Dimension]:
        """Return a cut-off and a side for each type, a type and a share for each flip.

        Raises:
            ModelError: The model has no such type.
        """
        kinds = self._switches(units).depths
        named = {n: d for kind in kinds for n, d in cut_dimensions(kind).items()}
        for i in range(self.flips):
            named[f"flip.{i}.type"] = Choice((NO_FLIP, *kinds))
            named[f"flip.{i}.at"] = Float(0.0, 1.0)
        return named

    def decode(self, params: Mapping[str, Any], units: Units) -> Mask:
        """Return the mask of all types' spans with the named switches flipped."""
        switches = self._switches(units)
        depths = switches.depths
        on = {(d, kind) for kind, n in depths.items() for d in cut_span(kind, params, n)}
        named = ((params[f"flip.{i}.type"], params[f"flip.{i}.at"]) for i in range(self.flips))
        flipped = {(block_at(at, depths[kind]), kind) for kind, at in named if kind != NO_FLIP}
        return switches.mask(on ^ flipped)

    def encode(self, mask: Mask, units: Units) -> dict[str, Any] | None:
        """Return the point with the fewest flips; those left over are `none` at 0.5."""
        switches = self._switches(units)
        found = fit(mask, switches, edge_spans, self.flips)
        if found is None:
            return None
        params: dict[str, Any] = {}
        for kind, span in found.spans.items():
            params |= cut_params(kind, span, switches.depths[kind])
        named = [(kind, middle_of(d, switches.depths[kind])) for d, kind in found.flips]
        named += [(NO_FLIP, 0.5)] * (self.flips - len(named))
        for i, (kind, at) in enumerate(named):
            params |= {f"flip.{i}.type": kind, f"flip.{i}.at": at}
        return params

    def extent(self, units: Units) -> Extent:
        """Return the number of masks at most `flips` switches away from some cut-offs."""
        switches = self._switches(units)
        per_type = [near_edges(live, self.flips) for live in live_blocks(switches)]
        return from_none_to_all(within_flips(per_type, self.flips), switches)

    def _switches(self, units: Units) -> Switches:
        return Switches.of(self.types, self.always, units)
