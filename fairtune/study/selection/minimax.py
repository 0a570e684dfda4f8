"""The minimax rule of MEDFAIR."""

from __future__ import annotations

import numpy as np

from fairtune.config import Config
from fairtune.errors import StudyError
from fairtune.evaluation.pareto import front
from fairtune.study.selection import SELECTIONS, Choice, Contest


@SELECTIONS.register("minimax")
class Minimax(Config):
    r"""The recipe that serves the worst-served group of plain training best.

    Zong, Yang and Hospedales 2023, "MEDFAIR", there "minimax Pareto selection": with U_g(i) the
    utility of group g under recipe i, the group is fixed beforehand from the plain-training
    baselines as $\arg\min_g \max_{i \in ERM} U_g(i)$; of the recipes that are non-dominated over
    the groups, the one with the largest U of that group is picked. Naming the group from the
    baselines keeps a recipe from choosing the group it is judged by.
    """

    def pick(self, contest: Contest) -> Choice:
        """Return the pick.

        Raises:
            StudyError: No confirmed baselines, or no groups.
        """
        names, values = contest.of_groups("minimax")
        if not contest.baselines:
            raise StudyError(
                "the worst-served group is that of confirmed baselines better than chance, and "
                "there are none",
                todo="let the study confirm at least one baseline",
            )
        reached = {name: max(b.groups[name] for b in contest.baselines) for name in names}
        worst = names.index(min(names, key=reached.__getitem__))
        points = np.stack(values)
        on_front = np.flatnonzero(front(points, [1.0] * len(names)))
        best = max(on_front, key=lambda i: (points[i, worst], contest.merit(contest.entrants[i])))
        return Choice(
            contest.entrants[best],
            f"it serves {contest.attribute} {names[worst]}, worst served by the baselines, best: "
            f"{contest.utility} {points[best, worst]:.3f}",
        )
