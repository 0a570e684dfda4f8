"""Units: the finest named pieces of a model that a mask can switch. Nothing here needs torch.

Inside the blocks each tensor is one unit and is called as the tensor is
(`blocks.7.attn.qkv.weight`); outside them a unit is named by the spec (`stem`, `pos`,
`final_norm`) and may hold several tensors. Every tensor of the backbone is in exactly one unit.
The head is no unit: it belongs to the usage, is always trained and never in a mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fairtune.config import digest
from fairtune.errors import FairtuneError, ModelError, did_you_mean, raise_all
from fairtune.models.spec import UnitNames


@dataclass(frozen=True)
class Units:
    """The units of one model.

    Attributes:
        depth: Number of blocks.
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
        return next((d for one in self.paths if (d := _depth(path, one)) is not None), None)

    def block(self, depth: int) -> str:
        """Return the path of block `depth`, counted from 0, in the network or its first tower."""
        return _block(self.paths[0], depth)

    @property
    def paths(self) -> tuple[str, ...]:
        """The module path of the blocks of every tower; one for a network of one."""
        return (self.blocks,) if isinstance(self.blocks, str) else self.blocks

    @property
    def towers(self) -> tuple[str, ...]:
        """The names of the towers; none for a network of one."""
        return () if isinstance(self.blocks, str) else tuple(map(_first, self.blocks))

    def path_of(self, name: str) -> str | None:
        """Return which of `paths` a unit, tensor or module lies below; None outside the blocks."""
        return next((path for path in self.paths if _depth(name, path) is not None), None)

    def expand(self, type_: str) -> tuple[str, ...]:
        """Return one type for each tower that has it: `text.attn` is itself, `attn` of both.

        Raises:
            ModelError: No unit at any depth is of that type.
        """
        if type_ in self.types or not self.towers or _first(type_) in self.towers:
            return (type_,)
        found = tuple(f"{t}.{type_}" for t in self.towers if self._has(f"{t}.{type_}"))
        if not found:
            raise self._unknown("unit type", type_, self.types)
        return found

    def deep(self, type_: str) -> int:
        """Return the blocks of the tower that a type is of, of joined ones of the deepest.

        Raises:
            ModelError: No unit at any depth is of that type.
        """
        units = [unit for part in self.by_depth(type_) for unit in part]
        return max(self.below(path) for path in {self.path_of(unit) for unit in units} if path)

    def below(self, path: str) -> int:
        """Return the number of blocks below one of `paths`."""
        return self._counts[path]

    @cached_property
    def _counts(self) -> dict[str, int]:
        found = dict.fromkeys(self.paths, 0)
        for unit in self.names:
            for path in self.paths:
                found[path] = max(
                    found[path], 1 + (-1 if (d := _depth(unit, path)) is None else d)
                )
        return found

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
            _ordered({unit for part in parts for unit in part[i]}, self._rank)
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
            raise self._unknown("unit type", name, self.types)
        return tuple(_ordered(units, self._rank) for units in inside)

    def _has(self, type_: str) -> bool:
        return any(self._ending(type_))

    def _ending(self, type_: str) -> tuple[tuple[str, ...], ...]:
        """Return the units of a declared type, or whose name ends so, for each block."""
        if type_ in self.types:
            return self.types[type_]
        tower = _first(type_) if _first(type_) in self.towers else None
        entry = type_ if tower is None else type_[len(tower) + 1 :]
        paths = [p for p in self.paths if tower is None or _first(p) == tower]
        inside: list[list[str]] = [[] for _ in range(self.depth)]
        for unit in self.names:
            for path in paths:
                depth = _depth(unit, path)
                if depth is not None and entry and _contains(_rest(unit, path), entry):
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


def partition(names: UnitNames, tensors: Sequence[tuple[str, int]]) -> Units:
    """Sort the parameters of a network into units.

    Args:
        names: The spec's declaration.
        tensors: Name and number of parameters of each tensor, in the order of the network.

    Raises:
        ModelError: A tensor is in no unit or in two, or a declared name fits no tensor.
        Problems: Several of these.
    """
    if names.towers:
        return _joined(names, tensors)
    depths = {name: _depth(name, names.blocks) for name, _ in tensors}
    found = sorted({d for d in depths.values() if d is not None})
    # What has no tensors at all is an endpoint.
    problems = list(_gaps(names, found)) if tensors else []
    owner: dict[str, str] = {}
    for name, depth in depths.items():
        owners = [name] if depth is not None else _owners(names, name)
        owner[name] = owners[0] if owners else name
        if len(owners) != 1:
            problems.append(_not_one(name, owners, names))
    problems += _idle(names, [name for name, _ in tensors], depths)
    raise_all("the units do not fit the architecture", problems)
    parameters: dict[str, tuple[str, ...]] = {}
    sizes: dict[str, int] = {}
    for name, size in tensors:
        unit = owner[name]
        parameters[unit] = (*parameters.get(unit, ()), name)
        sizes[unit] = sizes.get(unit, 0) + size
    blocks = len({d for d in depths.values() if d is not None})
    return Units(
        depth=blocks,
        names=tuple(parameters),
        parameters=parameters,
        sizes=sizes,
        types=_types(names, tuple(parameters), blocks),
        blocks=names.blocks,
    )


def _joined(names: UnitNames, tensors: Sequence[tuple[str, int]]) -> Units:
    """Return the units of a network of several towers, each called by its tower."""
    own = {
        tower: [(n[len(tower) + 1 :], size) for n, size in tensors if n.startswith(f"{tower}.")]
        for tower in names.towers
    }
    empty = [tower for tower, held in own.items() if not held]
    if empty:
        raise ModelError("the architecture has no such tower", where="units.towers", found=empty)
    made = {tower: partition(names.towers[tower], held) for tower, held in own.items()}
    owner = {
        f"{tower}.{tensor}": f"{tower}.{unit}"
        for tower, units in made.items()
        for unit in units.names
        for tensor in units.parameters[unit]
    }
    problems: list[FairtuneError] = []
    for name, _ in tensors:
        if name not in owner:
            owners = _owners(names, name)
            owner[name] = owners[0] if owners else name
            if len(owners) != 1:
                problems.append(_not_one(name, owners, names))
    raise_all("the units do not fit the architecture", problems)
    parameters: dict[str, tuple[str, ...]] = {}
    sizes: dict[str, int] = {}
    for name, size in tensors:
        unit = owner[name]
        parameters[unit] = (*parameters.get(unit, ()), name)
        sizes[unit] = sizes.get(unit, 0) + size
    depth = max(units.depth for units in made.values())
    types = {
        f"{tower}.{type_}": tuple(
            tuple(f"{tower}.{unit}" for unit in by_depth[d]) if d < len(by_depth) else ()
            for d in range(depth)
        )
        for tower, units in made.items()
        for type_, by_depth in units.types.items()
    }
    paths = tuple(f"{tower}.{path}" for tower, u in made.items() for path in u.paths)
    return Units(depth, tuple(parameters), parameters, sizes, types, paths)


def _types(
    names: UnitNames, units: tuple[str, ...], depth: int
) -> dict[str, tuple[tuple[str, ...], ...]]:
    rank = {unit: i for i, unit in enumerate(units)}
    inside: list[list[str]] = [[] for _ in range(depth)]
    for unit in units:
        at = _depth(unit, names.blocks)
        if at is not None:
            inside[at].append(unit)
    types: dict[str, tuple[tuple[str, ...], ...]] = {}
    for name, entries in names.types.items():
        found: list[set[str]] = [set() for _ in range(depth)]
        for entry in entries:
            for at in range(depth):
                if entry in types:
                    found[at].update(types[entry][at])
                else:
                    found[at].update(
                        u for u in inside[at] if _contains(_rest(u, names.blocks), entry)
                    )
        types[name] = tuple(_ordered(units_, rank) for units_ in found)
    return types


def _owners(names: UnitNames, tensor: str) -> list[str]:
    return [single for single, entries in names.singles.items() if _among(tensor, entries)]


def _gaps(names: UnitNames, found: list[int]) -> Iterable[FairtuneError]:
    if not found:
        yield ModelError(
            "the architecture has no blocks of that name", where="units.blocks", found=names.blocks
        )
    elif found != list(range(len(found))):
        yield ModelError("the blocks are not numbered from 0", where="units.blocks", found=found)


def _not_one(name: str, owners: list[str], names: UnitNames) -> FairtuneError:
    return ModelError(
        f"the tensor '{name}' is in {len(owners)} units",
        where="units.singles",
        found=owners or None,
        allowed=f"below '{names.blocks}.<number>', or in exactly one of {sorted(names.singles)}",
        todo="name it in one of the single units",
    )


def _idle(
    names: UnitNames, tensors: list[str], depths: Mapping[str, int | None]
) -> Iterable[FairtuneError]:
    outside = [t for t in tensors if depths[t] is None]
    inside = [_rest(t, names.blocks) for t in tensors if depths[t] is not None]
    seen: set[str] = set()
    for name, entries in names.types.items():
        for entry in entries:
            if entry not in seen and not any(_contains(rest, entry) for rest in inside):
                yield _fits_nothing(f"units.types.{name}", entry)
        seen.add(name)
    for name, entries in names.singles.items():
        for entry in entries:
            if not any(_among(tensor, (entry,)) for tensor in outside):
                yield _fits_nothing(f"units.singles.{name}", entry)


def _fits_nothing(where: str, entry: str) -> FairtuneError:
    return ModelError(
        "the entry fits no tensor of the architecture",
        where=where,
        found=entry,
        todo="remove it; `fairtune models units` shows the tensors' names",
    )


def _depth(name: str, blocks: str) -> int | None:
    counted, start = (1, blocks[:-1]) if blocks.endswith("*") else (0, blocks + ".")
    number, dot, _ = name.removeprefix(start).partition(".")
    inside = name.startswith(start) and dot and number.isdecimal()
    return int(number) - counted if inside else None


def _block(path: str, depth: int) -> str:
    return f"{path[:-1]}{depth + 1}" if path.endswith("*") else f"{path}.{depth}"


def _first(name: str) -> str:
    """Return the tower that a type or path is called by."""
    return name.split(".", 1)[0]


def _rest(name: str, blocks: str) -> str:
    start = blocks[:-1] if blocks.endswith("*") else blocks + "."
    return name[len(start) :].split(".", 1)[1]


def _contains(rest: str, entry: str) -> bool:
    if entry.startswith("^"):
        return f"{rest}.".startswith(f"{entry[1:]}.")
    return entry == "*" or f".{entry}." in f".{rest}."


def _among(name: str, entries: Sequence[str]) -> bool:
    return any(name == entry or name.startswith(entry + ".") for entry in entries)


def _ordered(units: Iterable[str], rank: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(sorted(units, key=rank.__getitem__))
