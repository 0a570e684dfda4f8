"""Asynchronous successive halving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from fairtune.config import Config
from fairtune.study.pruners import PRUNERS, comparable, least_epochs, unit
from fairtune.study.rows import Row, Score


@PRUNERS.register("asha")
class Asha(Config):
    """Asynchronous successive halving that stops and never resumes.

    Li et al. 2020, "A system for massively parallel hyperparameter tuning". Rungs stand at
    `min_resource * reduction^k` epochs; at each, a run goes on when it is among the best
    1/reduction of those that reached it. Deviations: a run that is not among the best is ended,
    not paused; and with fewer than `reduction` runs at a rung all go on, since a best third of
    two runs says nothing (Optuna lets only the best so far go on).

    Attributes:
        min_resource: Epochs before the first rung; None means max(2, a quarter of the epochs).
            With levels of fidelity the first level that is judged, and every one after it is.
        reduction: One run of so many goes on.
    """

    min_resource: int | None = Field(default=None, ge=1)
    reduction: int = Field(default=3, ge=2)

    def build(self, *, levels: bool = False) -> Halving:
        """Return the working rule."""
        return Halving(self.min_resource, self.reduction, levels)


@dataclass(frozen=True)
class Halving:
    """Successive halving at rungs `first * reduction^k`, or at every level from `first` on."""

    first: int | None
    reduction: int
    levels: bool = False

    def rungs(self, of: int, key: str) -> tuple[int, ...]:
        """Return the epochs or levels, all below `of`, at which a run is judged."""
        if self.levels:
            return tuple(range(self.first or 1, of))
        epoch, found = least_epochs(of, self.first), []
        while epoch < of:
            found.append(epoch)
            epoch *= self.reduction
        return tuple(found)

    def stop(
        self, epoch: int, of: int, key: str, score: Score, peers: Sequence[Row]
    ) -> str | None:
        """Return why the run ends: it is not among the best 1/reduction of its rung."""
        others = [row.rungs[epoch] for row in peers if epoch in row.rungs]
        return below_cut(epoch, score, others, self.reduction, unit(self.levels))


def below_cut(
    epoch: int, score: Score, others: Sequence[Score], reduction: int, unit: str = "epoch"
) -> str | None:
    """Return why `score` is not among the best 1/reduction of itself and `others`, or None."""
    own, peers = comparable(score, others)
    reached = len(peers) + 1
    if reached < reduction:
        return None
    better = sum(peer > own for peer in peers)
    if better < reached // reduction:
        return None
    return f"rank {better + 1} of {reached} at {unit} {epoch}, 1 in {reduction} goes on"
