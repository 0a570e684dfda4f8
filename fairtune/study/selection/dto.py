"""Distance to the utopia point."""

from __future__ import annotations

import numpy as np

from fairtune.config import Config
from fairtune.study.selection import SELECTIONS, Choice, Contest


@SELECTIONS.register("dto")
class Dto(Config):
    r"""The recipe nearest to the point where every group has the best utility any recipe gives it.

    $\arg\min_i \lVert U(i) / u - 1 \rVert_2$ with $u_g = \max_i U_g(i)$. Distance to optimum of
    Han, Baldwin and Cohn 2021, "Balancing out Bias", who measure it in accuracy and a fairness
    score; over group utilities, each divided by its best, as MEDFAIR (Zong et al. 2023) does.
    """

    def pick(self, contest: Contest) -> Choice:
        """Return the pick.

        Raises:
            StudyError: No groups.
        """
        _, values = contest.of_groups("dto")
        points = np.stack(values)
        utopia = points.max(axis=0)
        ratio = points / np.where(utopia > 0, utopia, 1.0)
        distance = np.linalg.norm(ratio - np.where(utopia > 0, 1.0, 0.0), axis=1)
        nearest = int(np.argmin(distance))
        return Choice(
            contest.entrants[nearest],
            f"it is nearest to the best {contest.utility} of every group of {contest.attribute}: "
            f"distance {distance[nearest]:.3f}",
        )
