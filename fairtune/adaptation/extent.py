"""How much a mask space can say in one model."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from fairtune.adaptation.switches import Switches


@dataclass(frozen=True)
class Extent:
    """How many masks a space has, and how many parameters they train.

    Attributes:
        masks: Number of distinct masks.
        least: Parameters that the smallest mask trains, without the head.
        most: Parameters that the largest mask trains, without the head.
        exact: False where types overlap or counting would take too long: then there are at most
            `masks`, and none trains fewer than `least` or more than `most`.
    """

    masks: int
    least: int
    most: int
    exact: bool = True


def from_none_to_all(masks: int, switches: Switches) -> Extent:
    """Return the extent of a space that can say all switches off and all on.

    Args:
        masks: Number of settings of the switches that can be said.
        switches: Its switches.
    """
    units = switches.units
    most = units.size(switches.fixed | switches.together(switches.members))
    return Extent(masks, units.size(switches.fixed), most, switches.apart)


def live_blocks(switches: Switches) -> list[int]:
    """Return, for each type, the number of blocks in which its switch changes the mask."""
    return [len(switches.live(kind)) for kind in switches.depths]


def edges(live: int) -> int:
    """Return the number of spans of `live` blocks that hold the first or last, or are empty."""
    return max(1, 2 * live)


def near_edges(live: int, flips: int) -> list[int]:
    """Return how many settings of `live` switches are 0, 1, ... `flips` flips from such a span.

    The distance is the smallest over all spans. Counted block by block over the four numbers of
    switches wrong so far: in the first part and after the cut-off, of either side.
    """
    over = flips + 1
    states = Counter({(0, 0, 0, 0): 1})
    for _ in range(live):
        after: Counter[tuple[int, int, int, int]] = Counter()
        for (first, behind, before, last), count in states.items():
            for on in (0, 1):
                moved = (
                    first + 1 - on,
                    min(first, behind) + on,
                    before + on,
                    min(before, last) + 1 - on,
                )
                after[tuple(min(over, n) for n in moved)] += count  # type: ignore[index]
        states = after
    counts = Counter[int]()
    for state, count in states.items():
        counts[min(state)] += count
    return [counts[k] for k in range(over)]


def within_flips(per_type: list[list[int]], flips: int) -> int:
    """Return the number of settings at most `flips` away over all types together.

    Args:
        per_type: For each type, the number of settings at each distance.
        flips: The largest sum of distances.
    """
    sums = [1] + [0] * flips
    for counts in per_type:
        sums = [sum(sums[k - j] * counts[j] for j in range(k + 1)) for k in range(flips + 1)]
    return sum(sums)


def choose(live: int, idle: int, count: int) -> int:
    """Return the number of sets of live switches among choices of `count` out of all."""
    return sum(math.comb(live, k) for k in range(max(0, count - idle), min(live, count) + 1))


def fitting(sizes: list[int], budget: int, limit: int = 100_000) -> tuple[int, int] | None:
    """Return how many sets of `sizes` sum up to at most `budget`, and the largest such sum.

    Returns:
        None when more than `limit` different sums would have to be kept.
    """
    sums = Counter({0: 1})
    for size in sizes:
        for total, count in list(sums.items()):
            if total + size <= budget:
                sums[total + size] += count
        if len(sums) > limit:
            return None
    return sum(sums.values()), max(sums)
