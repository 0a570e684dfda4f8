"""The picked mask on its network: which part of which block trains, and how."""

from __future__ import annotations

import pandas as pd

from fairtune.models.units import Units
from fairtune.report.trials import mask_of
from fairtune.training.recipe import Recipe

HEAD = "head"
REST = "rest"


def parts_of(units: Units) -> dict[str, tuple[frozenset[str], ...]]:
    """Return unit types that do not overlap, by name, with their units at each depth.

    The largest types first, without those that are whole blocks; what they leave of a block is
    `rest`. In the order of the network.
    """
    blocks = [{n for n in units.names if units.depth_of(n) == d} for d in range(units.depth)]
    whole = {
        name
        for name, by_depth in units.types.items()
        if all(set(found) == block for found, block in zip(by_depth, blocks))
    }
    by_size = sorted(
        (name for name in units.types if name not in whole),
        key=lambda name: -sum(units.size(found) for found in units.types[name]),
    )
    chosen: dict[str, tuple[frozenset[str], ...]] = {}
    taken: set[str] = set()
    for name in by_size:
        found = {unit for at in units.types[name] for unit in at}
        if found and not found & taken:
            chosen[name] = tuple(frozenset(at) for at in units.types[name])
            taken |= found
    left = tuple(frozenset(block - taken) for block in blocks)
    if any(left):
        chosen[REST if chosen else "block"] = left
    rank = {unit: i for i, unit in enumerate(units.names)}
    first = {name: min(rank[u] for at in by for u in at) for name, by in chosen.items()}
    return {name: chosen[name] for name in sorted(chosen, key=first.__getitem__)}


def network_frame(recipe: Recipe, units: Units) -> pd.DataFrame:
    """Return the cells of the drawing, from input to head.

    Columns: `stage` (row of the drawing), `part` (None where the cell is the whole stage),
    `share` (of the cell's parameters that train or carry an adapter, in [0, 1]), `method`
    (names joined by `+`, empty where nothing trains), `parameters`.
    """
    mask = mask_of(recipe.to_json(), units)
    methods = {
        unit: placed.name
        for placed in recipe.adaptation.method.placements(sorted(mask), units)
        for unit in placed.units
    }
    parts = parts_of(units)
    rows: list[tuple[str, str | None, float, str, int]] = []
    done: set[int] = set()
    for unit in units.names:
        depth = units.depth_of(unit)
        if depth is None:
            rows.append((unit, None, *_cell({unit}, mask, methods, units)))
        elif depth not in done:
            done.add(depth)
            rows += [
                (f"block {depth + 1}", name, *_cell(by[depth], mask, methods, units))
                for name, by in parts.items()
                if by[depth]
            ]
    rows.append((HEAD, None, 1.0, "direct", 0))
    return pd.DataFrame(rows, columns=["stage", "part", "share", "method", "parameters"])


def _cell(
    members: set[str] | frozenset[str],
    mask: frozenset[str],
    methods: dict[str, str],
    units: Units,
) -> tuple[float, str, int]:
    size, trained = units.size(members), members & mask
    names = sorted({methods.get(unit, "direct") for unit in trained})
    return units.size(trained) / size if size else 0.0, "+".join(names), size
