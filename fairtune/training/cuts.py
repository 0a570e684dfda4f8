"""Which cuts of a network are worth keeping what stands before them. Nothing here needs torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MOST = 4
LEAST_SECONDS = 1.0
"""A gain below this is not worth a file."""

WRITE, READ = 0.3e9, 1.5e9
"""Bytes a second that are assumed for writing a file and for reading it from memory or disk."""

_MANY = 12


@dataclass(frozen=True)
class Expected:
    """The runs that are expected to use what is kept.

    Attributes:
        starts: Number of runs by their first trained block; 0 stands for the stem.
        epochs: Passes of each.
        edited: Whether runs have input edits of their own, so that they share nothing.
    """

    starts: Mapping[int, float]
    epochs: int
    edited: bool = False


@dataclass(frozen=True)
class Cost:
    """What a pass costs on this machine.

    Attributes:
        rows: Rows of a pass: training and validation.
        made: Rows that are computed once: every fixed copy of a training row counts.
        epochs: Passes of one run over them.
        block_seconds: Forward seconds of one row in one block.
        row_bytes: Size of what stands before a block, of one row.
        free_bytes: Room for files.
    """

    rows: int
    made: int
    epochs: int
    block_seconds: float
    row_bytes: int
    free_bytes: float

    def making(self, cut: int) -> float:
        """Return the seconds that computing and writing the file of `cut` takes."""
        return self.made * (cut * self.block_seconds + self.row_bytes / WRITE)

    def saved(self, cut: int) -> float:
        """Return the seconds that one run saves which starts at `cut`."""
        return self.rows * self.epochs * (cut * self.block_seconds - self.row_bytes / READ)


@dataclass(frozen=True)
class Cuts:
    """The chosen cuts, with the numbers they were chosen by.

    Attributes:
        cuts: Blocks before which the hidden states are kept, in ascending order.
        seconds: Expected gain: what the runs save less what the files cost.
        runs: Number of runs that were expected.
        gib: Size of all files.
        cost: What it was reckoned with.
    """

    cuts: tuple[int, ...]
    seconds: float
    runs: float
    gib: float
    cost: Cost

    def below(self, first: int) -> int:
        """Return the cut that a run uses whose first trained block is `first`; 0 for none."""
        return max((cut for cut in self.cuts if cut <= first), default=0)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for logs and attributes."""
        return {
            "cuts": list(self.cuts),
            "gain_seconds": round(self.seconds, 1),
            "runs": round(self.runs, 1),
            "gib": round(self.gib, 3),
            "rows": self.cost.rows,
            "rows_made": self.cost.made,
            "epochs": self.cost.epochs,
            "microseconds_a_row_and_block": round(1e6 * self.cost.block_seconds, 2),
            "bytes_a_row": self.cost.row_bytes,
        }


def choose(starts: Mapping[int, float], cost: Cost, most: int = MOST) -> Cuts:
    """Return the at most `most` cuts with the largest gain that have room.

    The gain of a set S is `sum over runs of max(0, saved(largest c in S with c <= first))` less
    `sum over S of making(c)`, with `first` the first block that trains in a run. Passes are
    reckoned as if no run were stopped early. The best set is found by trying all, or by adding
    the best cut one by one where there are more than 12 to choose from.

    Args:
        starts: Expected number of runs by their first trained block.
        cost: What a pass costs.
        most: Number of cuts.
    """
    size = cost.made * cost.row_bytes
    room = int(cost.free_bytes // size) if size else 0
    wanted = sorted(first for first, runs in starts.items() if first > 0 and runs > 0)
    best = _best(wanted, starts, cost, min(most, room))
    seconds = _gain(best, starts, cost)
    if seconds < LEAST_SECONDS:
        best, seconds = (), 0.0
    return Cuts(best, seconds, sum(starts.values()), len(best) * size / 2**30, cost)


def _best(
    wanted: list[int], starts: Mapping[int, float], cost: Cost, most: int
) -> tuple[int, ...]:
    def gain(cuts: Iterable[int]) -> float:
        return _gain(cuts, starts, cost)

    if len(wanted) <= _MANY:
        sets = (s for n in range(most + 1) for s in itertools.combinations(wanted, n))
        return max(sets, key=gain, default=())
    best: tuple[int, ...] = ()
    for _ in range(most):
        more = [tuple(sorted((*best, cut))) for cut in wanted if cut not in best]
        found = max(more, key=gain)
        if gain(found) <= gain(best):
            break
        best = found
    return best


def _gain(cuts: Iterable[int], starts: Mapping[int, float], cost: Cost) -> float:
    kept = tuple(cuts)
    gain = -sum(cost.making(cut) for cut in kept)
    for first, runs in starts.items():
        usable = max((cut for cut in kept if cut <= first), default=0)
        gain += runs * max(0.0, cost.saved(usable)) if usable else 0.0
    return gain
