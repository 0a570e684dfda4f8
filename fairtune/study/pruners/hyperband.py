"""Hyperband: successive halving with several first rungs at once."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from fairtune.config import Config
from fairtune.study.pruners import PRUNERS, least_epochs, unit
from fairtune.study.pruners.asha import below_cut
from fairtune.study.rows import Row, Score


@PRUNERS.register("hyperband")
class Hyperband(Config):
    """Successive halving in brackets that differ in how early they begin to judge.

    Li et al. 2018, "Hyperband: a novel bandit-based approach to hyperparameter optimization".
    Bracket s has its first rung at `min_resource * reduction^s`; a run belongs to one bracket by
    a hash of its key, with the paper's share of runs per bracket, and is compared within it.
    Deviation: as in Optuna the number of runs is open, so brackets fill side by side and runs are
    ended, not paused.

    Attributes:
        min_resource: First rung of the first bracket; None means max(2, a quarter of the epochs).
            With levels of fidelity bracket s is judged at every level from this one (default:
            the first) plus s on.
        reduction: One run of so many goes on.
    """

    min_resource: int | None = Field(default=None, ge=1)
    reduction: int = Field(default=3, ge=2)

    def build(self, *, levels: bool = False) -> Brackets:
        """Return the working rule."""
        return Brackets(self.min_resource, self.reduction, levels)


@dataclass(frozen=True)
class Brackets:
    """Successive halving within the bracket to which a run's key belongs."""

    first: int | None
    reduction: int
    levels: bool = False

    def bracket(self, of: int, key: str) -> int:
        """Return the bracket of the run `key`, 0 for the one that judges first."""
        shares = self._shares(of)
        place = zlib.crc32(key.encode()) % sum(shares)
        for index, share in enumerate(shares):
            place -= share
            if place < 0:
                return index
        raise AssertionError("a place lies within the sum of the shares")

    def rungs(self, of: int, key: str) -> tuple[int, ...]:
        """Return the epochs or levels, all below `of`, at which the run `key` is judged."""
        if self.levels:
            return tuple(range((self.first or 1) + self.bracket(of, key), of))
        first = least_epochs(of, self.first) * self.reduction ** self.bracket(of, key)
        found = []
        while first < of:
            found.append(first)
            first *= self.reduction
        return tuple(found)

    def stop(
        self, epoch: int, of: int, key: str, score: Score, peers: Sequence[Row]
    ) -> str | None:
        """Return why the run ends: it is not among the best 1/reduction of its bracket."""
        mine = self.bracket(of, key)
        others = [
            row.rungs[epoch]
            for row in peers
            if epoch in row.rungs and self.bracket(of, row.key) == mine
        ]
        return below_cut(epoch, score, others, self.reduction, unit(self.levels))

    def _shares(self, of: int) -> list[int]:
        first, count = least_epochs(of, self.first), 1
        if self.levels:
            count = max(1, of - (self.first or 1) + 1)
        else:
            while first * self.reduction**count <= of:
                count += 1
        later = range(count - 1, -1, -1)
        return [math.ceil(count * self.reduction**s / (s + 1)) for s in later]
