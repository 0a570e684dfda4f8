"""The best within the study's constraints."""

from __future__ import annotations

from fairtune.config import Config
from fairtune.errors import StudyError
from fairtune.study.selection import SELECTIONS, Choice, Contest


@SELECTIONS.register("constraint")
class Constrained(Config):
    """The best primary objective among the recipes that meet every constraint of the study.

    As in fair Bayesian optimisation (Perrone et al. 2021), with point values.
    """

    def pick(self, contest: Contest) -> Choice:
        """Return the pick.

        Raises:
            StudyError: The study has no constraints, or nothing meets them.
        """
        if not contest.constraints:
            raise StudyError(
                "the study has no constraints", todo="add `constraints` to the study file"
            )
        meeting = [e for e in contest.entrants if e.violation <= 0]
        if not meeting:
            near = min(contest.entrants, key=lambda e: e.violation)
            raise StudyError(
                "no confirmed recipe meets the constraints",
                found=f"{near.label} comes nearest and violates them by {near.violation:.3g}",
                allowed=contest.constraints,
            )
        best = contest.best(meeting)
        return Choice(
            best,
            f"it has the best {contest.shown(best)} of the {len(meeting)} of "
            f"{len(contest.entrants)} recipes that meet {', '.join(contest.constraints)}",
        )
