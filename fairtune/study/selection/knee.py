"""The knee of the front."""

from __future__ import annotations

import numpy as np

from fairtune.config import Config
from fairtune.errors import StudyError
from fairtune.evaluation.pareto import front
from fairtune.study.selection import SELECTIONS, Choice, Contest


@SELECTIONS.register("knee")
class Knee(Config):
    """The recipe of the front that lies farthest beyond the chord between the front's ends.

    Das 1999, "On characterizing the 'knee' of the Pareto curve based on normal-boundary
    intersection". Objectives are scaled to [0, 1] over the front, better counted up; the chord of
    two objectives then runs from (0, 1) to (1, 0). With more it is the plane through the points
    that are best in one objective and worst in all others, which the front need not hold.
    """

    def pick(self, contest: Contest) -> Choice:
        """Return the pick.

        Raises:
            StudyError: One objective only.
        """
        objectives = contest.objectives
        if len(objectives) < 2:
            raise StudyError(
                "a knee needs a front, and there is one objective",
                found=str(contest.primary),
                todo="name a second objective, or take the rule `best`",
            )
        signs = [float(o.sign) for o in objectives]
        values = np.array([[e.values[str(o)] for o in objectives] for e in contest.entrants])
        kept = np.flatnonzero(front(values, signs))
        good = values[kept] * signs
        spread = np.ptp(good, axis=0)
        scaled = (good - good.min(axis=0)) / np.where(spread > 0, spread, 1.0)
        beyond = (scaled.sum(axis=1) - 1) / np.sqrt(len(objectives))
        merit = [contest.merit(contest.entrants[i]) for i in kept]
        best = max(range(len(kept)), key=lambda i: (round(float(beyond[i]), 12), merit[i]))
        chosen, over = contest.entrants[kept[best]], ", ".join(str(o) for o in objectives)
        if len(kept) == 1:
            return Choice(chosen, f"no other recipe is better in any of {over}")
        return Choice(
            chosen,
            f"it lies {beyond[best]:.3f} beyond the chord of the front of {len(kept)} recipes "
            f"over {over}",
        )
