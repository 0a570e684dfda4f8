"""Switches: what mask spaces turn on and off, one for each unit type and block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Annotated, TypeAlias

import pydantic

from fairtune.adaptation.mask import Mask
from fairtune.adaptation.rules import DEPTHS_ALLOWED, Depths
from fairtune.config.model import carried
from fairtune.errors import ConfigError, ModelError
from fairtune.models.units import Units

Switch: TypeAlias = tuple[int, str]
"""Block and unit type."""

DEFAULT_TYPES = ("norm", "attn", "mlp")
"""What a space switches when its file says nothing: `auto_peft1` of FairTune."""


def _distinct(types: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({kind for kind in types if types.count(kind) > 1})
    if twice:
        raise carried(ConfigError("a unit type stands here more than once", found=twice))
    return types


Types = Annotated[
    tuple[str, ...], pydantic.Field(min_length=1), pydantic.AfterValidator(_distinct)
]
"""Unit types of the model spec, none twice; `attn+norm` is one switch for both."""


def _some_depth(words: str) -> str:
    try:
        read = [Depths.parse(word, words) for word in words.replace(" ", "").split("+")]
    except ConfigError:
        read = []
    if not any(depth.kind != "none" for depth in read):
        fault = ConfigError("not blocks", found=words, allowed=f"{DEPTHS_ALLOWED}, joined by +")
        raise carried(fault)
    return "+".join(map(str, read))


Blocks = Annotated[str, pydantic.AfterValidator(_some_depth)]
"""Blocks that have switches, as in a mask rule: `last-3`, `0+9-11`."""

ALL_BLOCKS = "all"


@dataclass(frozen=True)
class Switches:
    """The switches of a mask space in one model.

    Attributes:
        units: Units of the model.
        members: Units that each switch turns on, block by block; a block may have none of a type.
        fixed: Units that train in every mask.
        depths: Every type and the number of blocks it is a matter of.
    """

    units: Units
    members: Mapping[Switch, frozenset[str]]
    fixed: frozenset[str]
    depths: Mapping[str, int]

    @classmethod
    def of(
        cls,
        types: Iterable[str],
        always: Iterable[str],
        units: Units,
        blocks: str = ALL_BLOCKS,
    ) -> Switches:
        """Return one switch per type and block.

        In a network of several towers a type that names none is one of each tower that has it.
        Each has the blocks of its tower; one that joins towers has those of the deepest, and
        turns on the blocks of that number in each.

        Args:
            types: Unit types, none twice.
            always: Units or types that train in every mask.
            units: Units of the model.
            blocks: Blocks that have switches, as `Blocks` says them, counted in the tower.

        Raises:
            ModelError: The model has no such unit, type or block, or a type is meant twice.
        """
        fixed = frozenset(unit for item in always for unit in _always(item, units))
        kinds = [kind for type_ in types for kind in units.expand(type_)]
        if len(kinds) > len(set(kinds)):
            raise ModelError(
                "a unit type stands here more than once",
                found=sorted({kind for kind in kinds if kinds.count(kind) > 1}),
                todo="name a type of every tower, or of one, and not both",
            )
        by_type = {kind: units.by_depth(kind) for kind in kinds}
        depths = {kind: units.deep(kind) for kind in kinds}
        known = {kind: _known(blocks, kind, depths[kind], units) for kind in kinds}
        members = {
            (depth, kind): frozenset(by_depth[depth])
            for depth in range(units.depth)
            for kind, by_depth in by_type.items()
            if depth in known[kind]
        }
        return cls(units, members, fixed, depths)

    def mask(self, on: Iterable[Switch]) -> Mask:
        """Return the mask in which exactly the switches `on` are on."""
        return Mask.of(self.fixed | self.together(on), self.units)

    def together(self, on: Iterable[Switch]) -> frozenset[str]:
        """Return the units of the switches `on`."""
        return frozenset[str]().union(*(self.members[switch] for switch in on))

    def inside(self, mask: Mask) -> tuple[Switch, ...]:
        """Return the switches all of whose units are in `mask`."""
        chosen = set(mask.units)
        return tuple(switch for switch, members in self.members.items() if members <= chosen)

    @cached_property
    def gains(self) -> dict[Switch, frozenset[str]]:
        """Units of each switch that do not train anyway; switches without any are left out."""
        found = {switch: members - self.fixed for switch, members in self.members.items()}
        return {switch: gain for switch, gain in found.items() if gain}

    @cached_property
    def apart(self) -> bool:
        """True when no two switches turn on the same unit: each mask is then said in one way."""
        gained = [unit for gain in self.gains.values() for unit in gain]
        return len(gained) == len(set(gained))

    def live(self, kind: str) -> tuple[int, ...]:
        """Return the blocks in which the switch of `kind` changes the mask."""
        return tuple(depth for depth, type_ in self.gains if type_ == kind)

    def cover(self, wanted: Iterable[str], among: Iterable[Switch]) -> tuple[Switch, ...] | None:
        """Return the fewest switches of `among` that hold all units of `wanted`, None if none do.

        Blocks share no unit, so each is solved alone and exactly; the work grows exponentially
        only with the number of types that overlap in one block.
        """
        left, blocks = set(wanted), dict[int, list[Switch]]()
        for switch in among:
            blocks.setdefault(switch[0], []).append(switch)
        chosen: list[Switch] = []
        for here in blocks.values():
            need = left & self.together(here)
            left -= need
            chosen += self._fewest(need, here)
        return None if left else tuple(chosen)

    def _fewest(self, need: set[str], here: list[Switch]) -> tuple[Switch, ...]:
        must = tuple(
            s for s in here if need & self.members[s] - self.together(t for t in here if t != s)
        )
        left = need - self.together(must)
        more = [s for s in here if s not in must and left & self.members[s]]
        for count in range(len(more) + 1):
            for extra in combinations(more, count):
                if left <= self.together(extra):
                    return must + extra
        raise AssertionError("all of these switches together hold what is needed")


def _always(item: str, units: Units) -> Iterable[str]:
    if named := units.named(item):
        return named
    return [unit for here in units.by_depth(item) for unit in here]


def _known(blocks: str, kind: str, depth: int, units: Units) -> set[int]:
    """Return the blocks that have a switch of `kind`."""
    towers = {tower for part in kind.split("+") if (tower := units.tower_of(part)) is not None}
    of = f"{next(iter(towers))} tower" if len(towers) == 1 else "network"
    words = (Depths.parse(word, blocks) for word in blocks.split("+"))
    return {block for word in words for block in word.blocks(depth, of)}
