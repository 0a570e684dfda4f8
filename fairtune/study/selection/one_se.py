"""The one-standard-error rule."""

from __future__ import annotations

from fairtune.config import Config
from fairtune.study.selection import SELECTIONS, Choice, Contest


@SELECTIONS.register("1se")
class OneStandardError(Config):
    """The recipe that trains least among those within one standard error of the best.

    Breiman, Friedman, Olshen and Stone 1984, "Classification and Regression Trees", section 3.4.3,
    with the number of trained parameters as the cost. The standard error is that of the best
    recipe's mean, over patients and seeds.
    """

    def pick(self, contest: Contest) -> Choice:
        """Return the pick."""
        best = contest.best()
        se = contest.se(best.label, contest.primary)
        near = [e for e in contest.entrants if contest.merit(e) >= contest.merit(best) - se]
        least = min(near, key=lambda e: (e.trained, -contest.merit(e)))
        if least is best:
            return Choice(
                best,
                f"none that trains less lies within one standard error ({se:.3f}) of its "
                f"{contest.shown(best)}",
            )
        return Choice(
            least,
            f"of the {len(near)} recipes within one standard error ({se:.3f}) of the best, "
            f"{contest.shown(best)} of {best.label}, it trains least",
        )
