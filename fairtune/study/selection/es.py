"""Equity-scaled utility."""

from __future__ import annotations

from fairtune.config import Config
from fairtune.errors import StudyError
from fairtune.study.selection import SELECTIONS, Choice, Contest


@SELECTIONS.register("es")
class EquityScaled(Config):
    """The largest equity-scaled utility, M / (1 + sum over groups of abs(M - M_g)).

    Luo et al. 2024, "FairCLIP".
    """

    def pick(self, contest: Contest) -> Choice:
        """Return the pick.

        Raises:
            StudyError: No groups.
        """
        contest.of_groups("es")
        scaled = [(e.scaled, e) for e in contest.entrants if e.scaled is not None]
        if not scaled:
            raise StudyError(f"{contest.utility} cannot be scaled here: it is not known for all")
        value, best = max(scaled, key=lambda pair: pair[0])
        name = f"es_{contest.utility}@{contest.attribute}"
        return Choice(best, f"it has the best {name} {value:.3f}")
