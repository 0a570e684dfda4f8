"""Spans of blocks: masks that take a few numbers per unit type, and how such a mask is said.

Depth is a share in [0, 1] of the network, so that a number means the same in a model of another
depth: block `d` of `L` reaches from `d / L` to `(d + 1) / L`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from fairtune.adaptation.mask import Mask
from fairtune.adaptation.switches import Switch, Switches
from fairtune.config import Choice, Dimension, Float


def blocks_below(share: float, depth: int) -> int:
    """Return the number of blocks whose middle, `(d + 0.5) / depth`, lies below `share`."""
    return min(depth, max(0, math.ceil(share * depth - 0.5)))


def block_at(share: float, depth: int) -> int:
    """Return the block in which `share` lies."""
    return min(depth - 1, int(share * depth))


def middle_of(block: int, depth: int) -> float:
    """Return the share at which the middle of `block` lies."""
    return (block + 0.5) / depth


def edge_spans(depth: int) -> list[range]:
    """Return every span that holds the first or the last block, and the empty one."""
    last = [range(start, depth) for start in range(depth, -1, -1)]
    return last + [range(stop) for stop in range(1, depth)]


def all_spans(depth: int) -> list[range]:
    """Return every span of blocks, and the empty one."""
    some = [range(a, b) for a in range(depth) for b in range(a + 1, depth + 1)]
    return [range(depth // 2, depth // 2), *some]


def cut_dimensions(kind: str) -> dict[str, Dimension]:
    """Return the parameters of one type's cut-off."""
    return {f"{kind}.cut": Float(0.0, 1.0), f"{kind}.side": Choice(("first", "last"))}


def cut_span(kind: str, params: Mapping[str, Any], depth: int) -> range:
    """Return the blocks below the cut-off (`first`) or above it (`last`)."""
    cut = blocks_below(params[f"{kind}.cut"], depth)
    return range(cut) if params[f"{kind}.side"] == "first" else range(cut, depth)


def cut_params(kind: str, span: range, depth: int) -> dict[str, Any]:
    """Return the cut-off of one of `edge_spans`."""
    last = span.stop == depth
    cut = (span.start if last else span.stop) / depth
    return {f"{kind}.cut": cut, f"{kind}.side": "last" if last else "first"}


@dataclass(frozen=True)
class Fit:
    """A mask as one span per type and single switches that differ from it.

    Attributes:
        spans: Blocks that each type trains.
        flips: Switches that are the other way round, block by block.
    """

    spans: Mapping[str, range]
    flips: tuple[Switch, ...]


def fit(
    mask: Mask, switches: Switches, spans: Callable[[int], Sequence[range]], flips: int = 0
) -> Fit | None:
    """Say `mask` by one of `spans` for each type and as few flipped switches as can be.

    Exact also where types overlap, in which case a switch inside the mask may be on or off as
    long as others hold its units.

    Args:
        mask: What is to be said.
        switches: The switches of the space.
        spans: Spans that a type of so many blocks may take; among equals the first is taken.
        flips: How many switches may differ from the spans.

    Returns:
        None when it cannot be said.
    """
    wanted = set(mask.units)
    inside = set(switches.inside(mask))
    need = wanted - switches.fixed
    if not switches.fixed <= wanted or not need <= switches.together(inside):
        return None
    must = set(_needed(inside, switches))
    kinds = switches.depths
    options = [list(_best(k, spans(d), inside, must, switches, flips)) for k, d in kinds.items()]
    best: tuple[int, Fit] | None = None
    for choice in product(*options):
        on = must | {s for o in choice for s in o.free}
        extra = switches.cover(need - switches.together(on), inside)
        assert extra is not None
        turned = {s for o in choice for s in o.wrong}.union(extra)
        if len(turned) <= flips and (best is None or len(turned) < best[0]):
            taken = dict(zip(kinds, (o.span for o in choice), strict=True))
            order = tuple(s for s in switches.members if s in turned)
            best = len(turned), Fit(taken, order)
    return None if best is None else best[1]


@dataclass(frozen=True)
class _Option:
    """A span for one type: the switches it gets wrong, and the optional ones it turns on."""

    span: range
    wrong: frozenset[Switch]
    free: frozenset[Switch]


def _needed(inside: set[Switch], switches: Switches) -> Iterator[Switch]:
    """Yield the switches that must be on: they have a unit that nothing else in the mask has."""
    for switch in inside & switches.gains.keys():
        others = (s for s in inside if s[0] == switch[0] and s != switch)
        if switches.gains[switch] - switches.together(others):
            yield switch


def _best(
    kind: str,
    spans: Sequence[range],
    inside: set[Switch],
    must: set[Switch],
    switches: Switches,
    flips: int,
) -> Iterator[_Option]:
    """Yield the spans of `kind` than which no other is right about more and optional in more."""
    mine = [switch for switch in switches.gains if switch[1] == kind]
    found = []
    for span in spans:
        on = {switch for switch in mine if switch[0] in span}
        wrong = (on - inside) | {s for s in mine if s in must and s not in on}
        if len(wrong) <= flips:
            found.append(_Option(span, frozenset(wrong), frozenset((on & inside) - must)))
    kept: list[_Option] = []
    for option in sorted(found, key=lambda o: (len(o.wrong), -len(o.free))):
        if not any(option.free <= better.free for better in kept):
            kept.append(option)
            yield option
