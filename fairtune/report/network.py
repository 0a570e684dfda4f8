"""The picked mask on its network: which part of which block trains, and how."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from fairtune.models.units import Units
from fairtune.report.trials import mask_of
from fairtune.training.recipe import Recipe

HEAD = "head"
REST = "rest"


def parts_of(units: Units, tower: str | None = None) -> dict[str, tuple[frozenset[str], ...]]:
    """Return unit types that do not overlap, by name, with their units at each depth.

    The largest types first, without those that are whole blocks; what they leave of a block is
    `rest`. In the order of the network.

    Args:
        units: Units of the model.
        tower: Whose types, called as within it; None for a network of one tower.
    """
    types = _types(units, tower)
    blocks: list[set[str]] = [set() for _ in range(units.below(units.path_in(tower)))]
    for unit in units.of_tower(tower):
        if (depth := units.depth_of(unit)) is not None:
            blocks[depth].add(unit)
    whole = {
        name
        for name, by_depth in types.items()
        if all(found == block for found, block in zip(by_depth, blocks))
    }
    by_size = sorted(
        (name for name in types if name not in whole),
        key=lambda name: -sum(units.size(found) for found in types[name]),
    )
    chosen: dict[str, tuple[frozenset[str], ...]] = {}
    taken: set[str] = set()
    for name in by_size:
        found = frozenset[str]().union(*types[name])
        if found and not found & taken:
            chosen[name] = types[name]
            taken |= found
    left = tuple(frozenset(block - taken) for block in blocks)
    if any(left):
        chosen[REST if chosen else "block"] = left
    rank = {unit: i for i, unit in enumerate(units.names)}
    first = {name: min(rank[u] for at in by for u in at) for name, by in chosen.items()}
    return {name: chosen[name] for name in sorted(chosen, key=first.__getitem__)}


def network_frame(recipe: Recipe, units: Units) -> pd.DataFrame:
    """Return the cells of the drawing, from input to head; one tower after the other.

    Columns: `stage` (row of the drawing), `part` (None where the cell is the whole stage),
    `share` (of the cell's parameters that train or carry an adapter, in [0, 1]), `method`
    (names joined by `+`, empty where nothing trains), `parameters`. Units of no tower, where
    there are several, stand behind all of them; a usage that trains no head has none.
    """
    mask = mask_of(recipe.to_json(), units)
    methods = {
        unit: placed.name
        for placed in recipe.adaptation.method.placements(sorted(mask), units)
        for unit in placed.units
    }
    rows: list[tuple[str, str | None, float, str, int]] = []
    for tower in units.towers or (None,):
        for stage, part, members in _stages(units, tower):
            rows.append((stage, part, *_cell(members, mask, methods, units)))
    if units.towers:
        rows += [(u, None, *_cell({u}, mask, methods, units)) for u in units.of_tower(None)]
    if recipe.usage.fits in ("all", "head"):
        rows.append((HEAD, None, 1.0, "direct", 0))
    return pd.DataFrame(rows, columns=["stage", "part", "share", "method", "parameters"])


def _types(units: Units, tower: str | None) -> dict[str, tuple[frozenset[str], ...]]:
    """Return the unit types of a tower, called as within it, with their units at each depth."""
    deep, start = units.below(units.path_in(tower)), "" if tower is None else f"{tower}."
    return {
        name.removeprefix(start): tuple(map(frozenset, by_depth[:deep]))
        for name, by_depth in units.types.items()
        if units.tower_of(name) == tower
    }


def _stages(units: Units, tower: str | None) -> Iterator[tuple[str, str | None, frozenset[str]]]:
    """Yield stage, part and units of every cell of a tower, in the order of the network."""
    parts, of = parts_of(units, tower), "" if tower is None else f"{tower} "
    done: set[int] = set()
    for unit in units.of_tower(tower):
        depth = units.depth_of(unit)
        if depth is None:
            yield unit, None, frozenset({unit})
        elif depth not in done:
            done.add(depth)
            for name, by_depth in parts.items():
                if by_depth[depth]:
                    yield f"{of}block {depth + 1}", name, by_depth[depth]


def _cell(
    members: set[str] | frozenset[str],
    mask: frozenset[str],
    methods: dict[str, str],
    units: Units,
) -> tuple[float, str, int]:
    size, trained = units.size(members), members & mask
    names = sorted({methods.get(unit, "direct") for unit in trained})
    return units.size(trained) / size if size else 0.0, "+".join(names), size
