"""How many runs a study will have, for those who only see its rows and settings."""

from __future__ import annotations

from datetime import datetime

from fairtune.study.budget import Budget, Ending
from fairtune.study.overview import Overview
from fairtune.study.rank import best_baselines
from fairtune.study.rows import BASELINE, CONFIRM, CONTROL, FINAL, SEARCH, due, roots
from fairtune.study.shortlist import best_of_control, shortlist


def planned_runs(view: Overview, now: datetime) -> dict[str, int | None]:
    """Return how many runs each phase will have, in order; None where nothing is known.

    Of baselines until the search begins, and of control and confirm until it has ended, the most
    there can be.
    """
    plan, search = view.settings, view.rows[SEARCH]
    names, top = list(plan["baselines"]["of"]), int(plan["confirm"]["top"])
    # The search begins when every baseline has ended: until then only the most is known.
    baseline = len(roots(view.rows[BASELINE]))
    if not search:
        baseline = max(baseline, len(names) * int(plan["baselines"]["lr_points"]))
    budget = Budget.model_validate(plan["budget"])
    signs = [objective.sign for objective in view.judge.objectives]
    ended = Ending.of(budget, signs, int(plan.get("startup", 0)), now).reason(search, now)
    trials = budget.trials if ended is None else len(roots(search))
    settled = ended is not None and not due(search)
    settled = settled and all(row.state != "running" for row in search)
    control = plan["baselines"].get("control") is not None
    recipes = top + len(names) + control
    if settled:
        recipes = _candidates(view, names, top, control)
    return {
        BASELINE: baseline,
        SEARCH: trials,
        CONTROL: trials if control else 0,
        CONFIRM: recipes * int(plan["confirm"]["seeds"]) if top else 0,
        FINAL: None,
    }


def _candidates(view: Overview, names: list[str], top: int, control: bool) -> int:
    objectives = view.judge.objectives
    best = best_baselines(view.rows[BASELINE], objectives[0].sign)
    kept = {row.digest for name, row in best.items() if name in names}
    kept |= {entry.digest for entry in shortlist(view.rows, objectives, top, kept)}
    if control:
        rule = str(view.settings["select"])
        found = best_of_control(view.rows, objectives, rule, kept)
        return len(kept) + (found is not None or not view.rows[CONTROL])
    return len(kept)
