"""The best primary objective."""

from __future__ import annotations

from fairtune.config import Config
from fairtune.study.selection import SELECTIONS, Choice, Contest


@SELECTIONS.register("best")
class Best(Config):
    """The best mean of the primary objective over fresh seeds (the usual rule)."""

    def pick(self, contest: Contest) -> Choice:
        """Return the best entrant."""
        best = contest.best()
        return Choice(best, f"it has the best {contest.shown(best)}")
