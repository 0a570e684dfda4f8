"""The median rule."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from fairtune.config import Config
from fairtune.study.pruners import PRUNERS, comparable, least_epochs, unit
from fairtune.study.rows import Row, Score


@PRUNERS.register("median")
class Median(Config):
    """Ends a run that stands below the median of finished runs at the same epoch.

    Golovin et al. 2017, "Google Vizier", section 3.2. Deviations: judged at three rungs (each
    quarter of the epochs), not every epoch, and by the score at the rung, not the best so far:
    the two rungs need not use the same metric.

    Attributes:
        startup: Complete runs before which none is ended.
        min_resource: Epochs before the first rung; None means max(2, a quarter of the epochs).
            With levels of fidelity the first level that is judged, and every one after it is.
    """

    startup: int = Field(default=5, ge=1)
    min_resource: int | None = Field(default=None, ge=1)

    def build(self, *, levels: bool = False) -> BelowMedian:
        """Return the working rule."""
        return BelowMedian(self.startup, self.min_resource, levels)


@dataclass(frozen=True)
class BelowMedian:
    """Ends what stands below the median of at least `startup` complete runs."""

    startup: int
    first: int | None
    levels: bool = False

    def rungs(self, of: int, key: str) -> tuple[int, ...]:
        """Return the first rung and then each quarter of the epochs, or level, below `of`."""
        if self.levels:
            return tuple(range(self.first or 1, of))
        first = least_epochs(of, self.first)
        return tuple(range(first, of, max(first, least_epochs(of, None))))

    def stop(
        self, epoch: int, of: int, key: str, score: Score, peers: Sequence[Row]
    ) -> str | None:
        """Return why the run ends: its score lies below the median of complete runs."""
        done = [r.rungs[epoch] for r in peers if r.state == "complete" and epoch in r.rungs]
        own, others = comparable(score, done)
        if len(others) < self.startup:
            return None
        middle = statistics.median(others)
        if own >= middle:
            return None
        at = f"{unit(self.levels)} {epoch}"
        if isinstance(score, tuple):
            return f"place {1 - own:.0f} below the median {1 - middle:g} at {at}"
        return f"score {own:.4g} below the median {middle:.4g} at {at}"
