"""The best-scored switches, by number or by a budget of parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from fairtune.adaptation.extent import Extent, choose, fitting, from_none_to_all
from fairtune.adaptation.mask import Mask
from fairtune.adaptation.spaces import SPACES
from fairtune.adaptation.switches import ALL_BLOCKS, DEFAULT_TYPES, Blocks, Switch, Switches, Types
from fairtune.config import Config, Dimension, Float
from fairtune.config.model import carried
from fairtune.errors import ConfigError, ModelError
from fairtune.models.units import Units


@SPACES.register("topk")
class TopK(Config):
    """A score `TYPE.DEPTH` in [-1, 1] for every type and block; the highest are switched on.

    With `count`, exactly the `count` highest, whatever their sign. With `share`, those above 0,
    from the highest down, each one that still fits into the budget: a mask trains at most that
    share of all parameters, and a score of 0 or less leaves a switch off. Of equal scores the
    earlier block, then the earlier type, comes first.

    Attributes:
        types: Unit types of the model spec; `attn+norm` is one switch for both.
        always: Units or types that train in every mask; the budget counts them.
        blocks: Blocks that have switches, as in a mask rule: `last-3`.
        count: Number of switches that are on.
        share: Budget as a share of the model's parameters without the head, in (0, 1].
    """

    types: Types = DEFAULT_TYPES
    always: tuple[str, ...] = ()
    blocks: Blocks = ALL_BLOCKS
    count: Annotated[int, pydantic.Field(ge=1)] | None = None
    share: Annotated[float, pydantic.Field(gt=0, le=1)] | None = None

    @pydantic.model_validator(mode="after")
    def _one_limit(self) -> TopK:
        if (self.count is None) == (self.share is None):
            given = {"count": self.count, "share": self.share} if self.count else None
            raise carried(
                ConfigError(
                    "topk takes either count or share",
                    found=given,
                    allowed="count: switches that train, or share: of all parameters, in (0, 1]",
                )
            )
        return self

    def dimensions(self, units: Units) -> dict[str, Dimension]:
        """Return `depth x types` scores.

        Raises:
            ModelError: The model has no such type or block, fewer switches than `count`, or no
                switch that fits into the budget.
        """
        switches = self._switches(units)
        if self.count is not None and self.count > len(switches.members):
            raise ModelError(
                "topk cannot train more switches than there are",
                found=self.count,
                allowed=f"1 to {len(switches.members)}",
            )
        if self.count is None:
            self._check_budget(switches)
        return {f"{kind}.{depth}": Float(-1.0, 1.0) for depth, kind in switches.members}

    def decode(self, params: Mapping[str, Any], units: Units) -> Mask:
        """Return the mask of the best-scored switches."""
        switches = self._switches(units)
        order = sorted(switches.members, key=lambda s: -params[f"{s[1]}.{s[0]}"])
        if self.count is not None:
            return switches.mask(order[: self.count])
        on: list[Switch] = []
        spent, budget = units.size(switches.fixed), self._budget(units)
        for switch in order:
            cost = units.size(switches.gains.get(switch, frozenset()) - switches.together(on))
            if params[f"{switch[1]}.{switch[0]}"] > 0 and spent + cost <= budget:
                on.append(switch)
                spent += cost
        return switches.mask(on)

    def encode(self, mask: Mask, units: Units) -> dict[str, Any] | None:
        """Return scores of 0.5 and -0.5; None when the mask is not of that number or size."""
        switches = self._switches(units)
        on = self._said(mask, switches)
        if on is None or switches.mask(on) != mask:
            return None
        return {f"{s[1]}.{s[0]}": 0.5 if s in on else -0.5 for s in switches.members}

    def extent(self, units: Units) -> Extent:
        """Return the number of choices of `count` switches, or of those within the budget."""
        switches = self._switches(units)
        costs = [units.size(switches.gains.get(s, ())) for s in switches.members]
        return self._counted(costs, switches) if self.count else self._bought(costs, switches)

    def _said(self, mask: Mask, switches: Switches) -> set[Switch] | None:
        """Return the switches to turn on for `mask`, as many as `count` says if it can be."""
        inside = switches.inside(mask)
        if self.count is None:
            fits = mask.trainable(switches.units) <= self._budget(switches.units)
            return set(inside) if fits else None
        fewest = switches.cover(set(mask.units) - switches.fixed, inside)
        if fewest is None or not len(fewest) <= self.count <= len(inside):
            return None
        more = [switch for switch in inside if switch not in fewest]
        return {*fewest, *more[: self.count - len(fewest)]}

    def _counted(self, costs: list[int], switches: Switches) -> Extent:
        assert self.count is not None
        live = len(switches.gains)
        fixed, whole = switches.units.size(switches.fixed), from_none_to_all(1, switches)
        ordered = sorted(costs)
        few, many = ordered[: self.count], ordered[len(ordered) - self.count :]
        return Extent(
            choose(live, len(costs) - live, self.count),
            # Where types overlap, the cheapest ones may have their units in common.
            fixed + (sum(few) if whole.exact else max(few)),
            min(fixed + sum(many), whole.most),
            whole.exact,
        )

    def _bought(self, costs: list[int], switches: Switches) -> Extent:
        fixed, whole = switches.units.size(switches.fixed), from_none_to_all(1, switches)
        room = self._budget(switches.units) - fixed
        live = [cost for cost in costs if cost]
        found = fitting(live, room) if whole.exact else None
        if found is None:
            return Extent(2 ** len(live), fixed, min(whole.most, fixed + room), exact=False)
        return Extent(found[0], fixed, fixed + found[1])

    def _check_budget(self, switches: Switches) -> None:
        units = switches.units
        cheapest = min(map(units.size, switches.gains.values()), default=0)
        needed = units.size(switches.fixed) + cheapest
        if needed > self._budget(units):
            raise ModelError(
                "no switch fits into the budget of topk",
                found=self.share,
                allowed=f"at least {needed / units.total:.2g} of the {units.total} parameters",
            )

    def _budget(self, units: Units) -> int:
        assert self.share is not None
        # A share that means a size exactly must not miss it by a rounding error.
        return math.floor(self.share * units.total * (1 + 1e-12))

    def _switches(self, units: Units) -> Switches:
        return Switches.of(self.types, self.always, units, self.blocks)
