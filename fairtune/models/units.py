"""Units: the finest named pieces of a model that a mask can switch. Nothing here needs torch.

Inside the blocks each tensor is one unit and is called as the tensor is
(`blocks.7.attn.qkv.weight`); outside them a unit is named by the spec (`stem`, `pos`,
`final_norm`) and may hold several tensors. Every tensor of the backbone is in exactly one unit.
The head is no unit: it belongs to the usage, is always trained and never in a mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fairtune.config import digest
from fairtune.errors import ModelError, did_you_mean
from fairtune.models.paths import below_block, block_at, contains, depth_in, ordered, tower_in

IMAGE = "image"
"""The tower that images go through, where a network has several."""

SINGLES = "singles"
"""What all units outside the blocks are called together."""

_BEFORE, _BEHIND = ("stem", "pos"), ("projection",)
"""Singles that stand before or behind the blocks of their tower wherever their tensors are."""


@dataclass(frozen=True)
class Units:
    """The units of one model.

    Attributes:
        depth: Number of blocks; of a network of several towers those of the deepest.
        names: All units in the order of the network: stem, blocks by depth, then the rest.
        parameters: Names of the tensors of each unit.
        sizes: Number of parameters of each unit.
        types: For each type and each depth, its units in the order of the network.
        blocks: Module path before the depth number; with `*` at its end the number follows at
            once and counts from 1 (`layer*` for `layer1` to `layer4`). Of a network of several
            towers the path of each: blocks of one number stand side by side.
    """

    depth: int
    names: tuple[str, ...]
    parameters: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, int]
    types: Mapping[str, tuple[tuple[str, ...], ...]]
    blocks: str | tuple[str, ...] = "blocks"

    def depth_of(self, unit: str) -> int | None:
        """Return the block number of `unit`, counted from 0, or None for a single unit.

        Raises:
            ModelError: There is no such unit.
        """
        try:
            return self._depths[unit]
        except KeyError:
            raise self._unknown("unit", unit, self.names) from None

    def depth_at(self, path: str) -> int | None:
        """Return the number of the block that anything of the network lies in, counted from 0.

        Args:
            path: Module path of a tensor or module, of the architecture or added to it.
        """
        return next((d for one in self.paths if (d := depth_in(path, one)) is not None), None)

    def block_of(self, name: str) -> str | None:
        """Return the path of the block that a unit, tensor or module lies in; None outside."""
        path, depth = self.path_of(name), self.depth_at(name)
        return None if path is None or depth is None else block_at(path, depth)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The module path of the blocks of every tower; one for a network of one."""
        return (self.blocks,) if isinstance(self.blocks, str) else self.blocks

    @cached_property
    def towers(self) -> tuple[str, ...]:
        """The names of the towers; none for a network of one."""
        return () if isinstance(self.blocks, str) else tuple(map(tower_in, self.blocks))

    def path_of(self, name: str) -> str | None:
        """Return which of `paths` a unit, tensor or module lies below; None outside the blocks."""
        return next((path for path in self.paths if depth_in(name, path) is not None), None)

    def tower_of(self, name: str) -> str | None:
        """Return the tower that a unit, tensor, module or type is called by; None for none."""
        return tower if (tower := tower_in(name)) in self.towers else None

    def of_tower(self, tower: str | None) -> tuple[str, ...]:
        """Return the units of one tower; with None those of none, of a network of one all."""
        return tuple(name for name in self.names if self.tower_of(name) == tower)

    @property
    def image_tower(self) -> str | None:
        """The tower that images go through; None for a network of one."""
        return IMAGE if IMAGE in self.towers else next(iter(self.towers), None)

    @property
    def image_depth(self) -> int:
        """The number of blocks that images go through."""
        return self.below(self.path_in(self.image_tower))

    def path_in(self, tower: str | None) -> str:
        """Return the module path of the blocks of `tower`; with None of a network of one."""
        return next((path for path in self.paths if tower_in(path) == tower), self.paths[0])

    @cached_property
    def entrance(self) -> frozenset[str]:
        """The single units that stand before the blocks of their tower.

        That goes by the order of the network, but for `stem` and `pos`, which stand before, and
        `projection`, behind. Units of no tower, where there are several, are none of them.
        """
        found: set[str] = set()
        for tower in self.towers or (None,):
            reached = False
            for name in self.of_tower(tower):
                last = name.rpartition(".")[2]
                if self._depths[name] is not None:
                    reached = True
                elif last in _BEFORE or (not reached and last not in _BEHIND):
                    found.add(name)
        return frozenset(found)

    def named(self, name: str) -> tuple[str, ...]:
        """Return the units that a word without depth means; none where it means none.

        That is a unit; of a network of several towers a single unit of every tower (`pos`) or all
        units of one (`text`); all units outside the blocks (`singles`), or those of one tower
        (`text.singles`).
        """
        if name in self._depths:
            return (name,)
        if name == SINGLES:
            return self.singles
        if name in self.towers:
            return self.of_tower(name)
        if name.endswith(f".{SINGLES}") and (tower := name[: -len(SINGLES) - 1]) in self.towers:
            return tuple(u for u in self.of_tower(tower) if self._depths[u] is None)
        return tuple(u for tower in self.towers if (u := f"{tower}.{name}") in self._depths)

    def expand(self, type_: str) -> tuple[str, ...]:
        """Return one type for each tower that has it: `text.attn` is itself, `attn` of both.

        Types joined with `+` stay joined: `attn+norm` is `image.attn+image.norm` and
        `text.attn+text.norm`. Where a tower is named in it, it is one.

        Raises:
            ModelError: No unit at any depth is of that type.
        """
        parts = [part.strip() for part in type_.split("+")]
        if not self.towers or any(p in self.types or self.tower_of(p) for p in parts):
            return (type_,)
        for part in parts:
            if not any(self._has(f"{tower}.{part}") for tower in self.towers):
                raise self._unknown("unit type", part, self.type_names)
        here = {t: [f"{t}.{p}" for p in parts if self._has(f"{t}.{p}")] for t in self.towers}
        return tuple("+".join(found) for found in here.values() if found)

    def deep(self, type_: str) -> int:
        """Return the blocks of the tower that a type is of, of joined ones of the deepest.

        Raises:
            ModelError: No unit at any depth is of that type.
        """
        found = self.by_depth(type_)
        if not self.towers:
            return self.depth
        towers = {self.tower_of(unit) for units in found for unit in units}
        return max(self.below(self.path_in(tower)) for tower in towers)

    def below(self, path: str) -> int:
        """Return the number of blocks below one of `paths`."""
        return self._counts[path]

    @cached_property
    def _counts(self) -> dict[str, int]:
        found = dict.fromkeys(self.paths, 0)
        for unit in self.names:
            path, depth = self.path_of(unit), self._depths[unit]
            if path is not None and depth is not None:
                found[path] = max(found[path], depth + 1)
        return found

    @cached_property
    def type_names(self) -> tuple[str, ...]:
        """What a declared type may be called: by its tower, or not."""
        bare = dict.fromkeys(name.partition(".")[2] for name in self.types if self.tower_of(name))
        return (*self.types, *bare)

    def of(self, type_: str, depth: int) -> tuple[str, ...]:
        """Return the units of `type_` in block `depth`; empty when that block has none.

        Args:
            type_: A declared type, the end of a unit's name (`attn.qkv.weight`, `mlp.fc1`), or
                several of these joined with `+`.
            depth: Block number in `[0, depth)`.

        Raises:
            ModelError: No unit at any depth is of that type, or there is no such block.
        """
        if not 0 <= depth < self.depth:
            raise ModelError(
                "there is no such block", found=depth, allowed=f"0 to {self.depth - 1}"
            )
        return self.by_depth(type_)[depth]

    def by_depth(self, type_: str) -> tuple[tuple[str, ...], ...]:
        """Return the units of `type_` (as in `of`) for each block.

        Raises:
            ModelError: No unit at any depth is of that type.
        """
        parts = [self._one_type(part.strip()) for part in type_.split("+")]
        if len(parts) == 1:
            return parts[0]
        return tuple(
            ordered({unit for part in parts for unit in part[i]}, self._rank)
            for i in range(self.depth)
        )

    @cached_property
    def singles(self) -> tuple[str, ...]:
        """The units without depth, in the order of the network."""
        return tuple(name for name in self.names if self._depths[name] is None)

    @cached_property
    def total(self) -> int:
        """Number of parameters of all units together."""
        return sum(self.sizes.values())

    def size(self, units: Iterable[str]) -> int:
        """Return the number of parameters of `units`."""
        return sum(self.sizes[unit] for unit in units)

    def tensors(self, units: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the tensors of `units`, in the order of the network.

        Raises:
            ModelError: One of them is no unit of this model.
        """
        wanted = set(units)
        for unit in sorted(wanted - set(self.names)):
            raise self._unknown("unit", unit, self.names)
        return tuple(t for unit in self.names if unit in wanted for t in self.parameters[unit])

    @cached_property
    def hash(self) -> str:
        """Digest of names, tensors and types: equal for every image size of one model."""
        content = self.to_json()
        del content["sizes"]
        return digest(content)

    def __hash__(self) -> int:
        return hash(self.hash)

    def check_any(self, found: object) -> None:
        """Refuse `found`, something of a mask, for a model without units.

        Raises:
            ModelError: The model is an endpoint, of which nothing can be trained.
        """
        if not self.names:
            raise ModelError(
                "the model is an endpoint: it has no units that a mask could name, and gives no "
                "gradient",
                found=found,
                allowed="none",
                todo="write adaptation: {mask: none}; as a baseline, linear_readout",
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values that `from_json` reads."""
        return {
            "depth": self.depth,
            "blocks": self.blocks if isinstance(self.blocks, str) else list(self.blocks),
            "names": list(self.names),
            "parameters": {unit: list(names) for unit, names in self.parameters.items()},
            "sizes": dict(self.sizes),
            "types": {name: [list(u) for u in by] for name, by in self.types.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Units:
        """Read what `to_json` wrote."""
        return cls(
            depth=value["depth"],
            blocks=tuple(value["blocks"])
            if isinstance(value["blocks"], list)
            else value["blocks"],
            names=tuple(value["names"]),
            parameters={unit: tuple(names) for unit, names in value["parameters"].items()},
            sizes=dict(value["sizes"]),
            types={n: tuple(tuple(u) for u in by) for n, by in value["types"].items()},
        )

    @cached_property
    def _depths(self) -> dict[str, int | None]:
        return {unit: self.depth_at(unit) for unit in self.names}

    @cached_property
    def _rank(self) -> dict[str, int]:
        return {unit: i for i, unit in enumerate(self.names)}

    def _one_type(self, name: str) -> tuple[tuple[str, ...], ...]:
        self.check_any(name)
        if name in self.types:
            return self.types[name]
        inside: list[list[str]] = [[] for _ in range(self.depth)]
        for part in self.expand(name):
            for depth, units in enumerate(self._ending(part)):
                inside[depth] += units
        if not any(inside):
            raise self._unknown("unit type", name, self.type_names)
        return tuple(ordered(units, self._rank) for units in inside)

    def _has(self, type_: str) -> bool:
        return any(self._ending(type_))

    def _ending(self, type_: str) -> tuple[tuple[str, ...], ...]:
        """Return the units of a declared type, or whose name ends so, for each block."""
        if type_ in self.types:
            return self.types[type_]
        tower = self.tower_of(type_)
        entry = type_ if tower is None else type_[len(tower) + 1 :]
        paths = [p for p in self.paths if tower is None or tower_in(p) == tower]
        inside: list[list[str]] = [[] for _ in range(self.depth)]
        for unit in self.names:
            for path in paths:
                depth = depth_in(unit, path)
                if depth is not None and entry and contains(below_block(unit, path), entry):
                    inside[depth].append(unit)
        return tuple(tuple(units) for units in inside)

    def _unknown(self, what: str, found: str, known: Iterable[str]) -> ModelError:
        some = list(known)
        shown = some if len(some) <= 20 else [*some[:20], f"... {len(some)} in all"]
        return ModelError(
            f"the model has no {what} of that name",
            found=found,
            allowed=shown,
            todo=did_you_mean(found, some),
        )
