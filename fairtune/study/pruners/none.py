"""No pruning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fairtune.config import Config
from fairtune.study.pruners import PRUNERS
from fairtune.study.rows import Row, Score


@PRUNERS.register("none")
class Off(Config):
    """Every run goes to its end."""

    def build(self, *, levels: bool = False) -> Never:
        """Return the working rule."""
        return Never()


@dataclass(frozen=True)
class Never:
    """A rule without rungs."""

    def rungs(self, of: int, key: str) -> tuple[int, ...]:
        """Return no epoch."""
        return ()

    def stop(
        self, epoch: int, of: int, key: str, score: Score, peers: Sequence[Row]
    ) -> str | None:
        """Go on."""
        return None
