"""A network's tensors sorted into units, as its spec declares them. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fairtune.errors import FairtuneError, ModelError, raise_all
from fairtune.models.paths import among, below_block, contains, depth_in, ordered
from fairtune.models.spec import UnitNames
from fairtune.models.units import Units


def partition(names: UnitNames, tensors: Sequence[tuple[str, int]]) -> Units:
    """Sort the parameters of a network into units.

    Args:
        names: The spec's declaration.
        tensors: Name and number of parameters of each tensor, in the order of the network.

    Raises:
        ModelError: A tensor is in no unit or in two, or a declared name fits no tensor.
        Problems: Several of these.
    """
    return _of_several(names, tensors) if names.towers else _of_one(names, tensors, "units")


def _of_one(names: UnitNames, tensors: Sequence[tuple[str, int]], where: str) -> Units:
    """Return the units of a network of one tower, which is declared at `where`."""
    depths = {name: depth_in(name, names.blocks) for name, _ in tensors}
    found = sorted({d for d in depths.values() if d is not None})
    # What has no tensors at all is an endpoint.
    problems = list(_gaps(names, found, where)) if tensors else []
    inside = {name: name for name, depth in depths.items() if depth is not None}
    owner = inside | _alone([n for n in depths if n not in inside], names, where, problems)
    rests = [below_block(name, names.blocks) for name in inside]
    problems += _idle_types(names, rests, where)
    raise_all("the units do not fit the architecture", problems)
    parameters, sizes = _gathered(tensors, owner)
    blocks = len(found)
    types = _types(names, tuple(parameters), blocks)
    return Units(blocks, tuple(parameters), parameters, sizes, types, names.blocks)


def _of_several(names: UnitNames, tensors: Sequence[tuple[str, int]]) -> Units:
    """Return the units of a network of several towers, each called by its tower."""
    own = {
        tower: [(n[len(tower) + 1 :], size) for n, size in tensors if n.startswith(f"{tower}.")]
        for tower in names.towers
    }
    empty = [tower for tower, held in own.items() if not held]
    if empty:
        raise ModelError("the architecture has no such tower", where="units.towers", found=empty)
    made = {
        tower: _of_one(names.towers[tower], held, f"units.towers.{tower}")
        for tower, held in own.items()
    }
    inside = {
        f"{tower}.{tensor}": f"{tower}.{unit}"
        for tower, units in made.items()
        for unit in units.names
        for tensor in units.parameters[unit]
    }
    problems: list[FairtuneError] = []
    owner = inside | _alone([n for n, _ in tensors if n not in inside], names, "units", problems)
    raise_all("the units do not fit the architecture", problems)
    parameters, sizes = _gathered(tensors, owner)
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


def _gathered(
    tensors: Sequence[tuple[str, int]], owner: Mapping[str, str]
) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """Return the tensors and the size of each unit, in the order of the network."""
    parameters: dict[str, tuple[str, ...]] = {}
    sizes: dict[str, int] = {}
    for name, size in tensors:
        unit = owner[name]
        parameters[unit] = (*parameters.get(unit, ()), name)
        sizes[unit] = sizes.get(unit, 0) + size
    return parameters, sizes


def _alone(
    tensors: Sequence[str], names: UnitNames, where: str, problems: list[FairtuneError]
) -> dict[str, str]:
    """Return the single unit that each of `tensors` is in; what is wrong goes to `problems`."""
    owner: dict[str, str] = {}
    for tensor in tensors:
        owners = [one for one, entries in names.singles.items() if among(tensor, entries)]
        owner[tensor] = owners[0] if owners else tensor
        if len(owners) != 1:
            problems.append(_not_one(tensor, owners, names, where))
    for name, entries in names.singles.items():
        for entry in entries:
            if not any(among(tensor, (entry,)) for tensor in tensors):
                problems.append(_fits_nothing(f"{where}.singles.{name}", entry))
    return owner


def _types(
    names: UnitNames, units: tuple[str, ...], depth: int
) -> dict[str, tuple[tuple[str, ...], ...]]:
    rank = {unit: i for i, unit in enumerate(units)}
    inside: list[list[str]] = [[] for _ in range(depth)]
    for unit in units:
        at = depth_in(unit, names.blocks)
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
                        u for u in inside[at] if contains(below_block(u, names.blocks), entry)
                    )
        types[name] = tuple(ordered(units_, rank) for units_ in found)
    return types


def _gaps(names: UnitNames, found: list[int], where: str) -> Iterable[FairtuneError]:
    if not found:
        yield ModelError(
            "the architecture has no blocks of that name",
            where=f"{where}.blocks",
            found=names.blocks,
        )
    elif found != list(range(len(found))):
        yield ModelError(
            "the blocks are not numbered from 0", where=f"{where}.blocks", found=found
        )


def _not_one(name: str, owners: list[str], names: UnitNames, where: str) -> FairtuneError:
    below = f"below '{names.blocks}.<number>'"
    inside = f"in one of the towers {list(names.towers)}" if names.towers else below
    return ModelError(
        f"the tensor '{name}' is in {len(owners)} units",
        where=f"{where}.singles",
        found=owners or None,
        allowed=f"{inside}, or in exactly one of {sorted(names.singles)}",
        todo="name it in one of the single units",
    )


def _idle_types(names: UnitNames, inside: list[str], where: str) -> Iterable[FairtuneError]:
    """Yield entries of types that occur in none of `inside`, names below their blocks."""
    seen: set[str] = set()
    for name, entries in names.types.items():
        for entry in entries:
            if entry not in seen and not any(contains(rest, entry) for rest in inside):
                yield _fits_nothing(f"{where}.types.{name}", entry)
        seen.add(name)


def _fits_nothing(where: str, entry: str) -> FairtuneError:
    return ModelError(
        "the entry fits no tensor of the architecture",
        where=where,
        found=entry,
        todo="remove it; `fairtune models units` shows the tensors' names",
    )
