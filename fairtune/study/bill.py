"""What a study will run, what its budget limits and what it does not, before it starts."""

from __future__ import annotations

from datetime import UTC, datetime

from fairtune.study.budget import Budget, deadline
from fairtune.study.phases import BaselinePhase
from fairtune.study.plan import Plan
from fairtune.study.rows import ERROR_RETRIES, STALE_RETRIES
from fairtune.study.schema import StudyFile
from fairtune.study.selection import SELECTIONS


def bill(plan: Plan, now: datetime | None = None) -> str:
    """Return the budget of the search, and what is run beside it, as text."""
    study = plan.study
    confirm = study.confirm
    beside = [
        f"{baseline_runs(plan)} baseline runs",
        *([f"at most {controls} control runs"] if (controls := control_runs(study)) else []),
        f"at most {confirm_runs(study)} confirm runs ({confirm.seeds} seeds each)"
        if confirm.top
        else "no confirm runs",
        f"further attempts ({STALE_RETRIES} where a worker is lost, {ERROR_RETRIES} where an "
        "error may pass)",
        "finetune",
    ]
    return "\n".join(
        [
            f"budget of the search: {'; '.join(limits(study.budget, now))}",
            f"not in the budget: {', '.join(beside)}",
        ]
    )


def limits(budget: Budget, now: datetime | None = None) -> list[str]:
    """Return every limit of a budget in words."""
    found = [f"{budget.trials} trials"]
    if budget.minutes is not None:
        found.append(f"no trial starts after {budget.minutes:g} minutes of search")
    if budget.gpu_hours is not None:
        found.append(f"none after {budget.gpu_hours:g} hours on devices")
    if budget.until is not None:
        until = deadline(budget.until, now or datetime.now(UTC))
        found.append(f"none after {until.isoformat(sep=' ', timespec='minutes')}")
    if budget.stop == "auto":
        found.append("none once nothing rises any more")
    return found


def baseline_runs(plan: Plan) -> int:
    """Return the number of runs of the baselines."""
    return sum(1 for _ in BaselinePhase(plan).proposals())


def confirm_runs(study: StudyFile) -> int:
    """Return the greatest number of confirm runs."""
    if not study.confirm.top:
        return 0
    recipes = study.confirm.top + len(study.baselines.of)
    recipes += study.baselines.control is not None
    if len(study.judge.objectives) > 1:
        recipes += len(SELECTIONS.names())  # what each rule would pick is confirmed as well
    return recipes * study.confirm.seeds


def control_runs(study: StudyFile) -> int:
    """Return the greatest number of runs of random masks beside the search."""
    return 0 if study.baselines.control is None else study.budget.trials


def reached(budget: Budget, seconds: float, now: datetime | None = None) -> int:
    """Return how many trials of `seconds` each one device gets through, one after another."""
    most = [budget.trials * seconds]
    if budget.minutes is not None:
        most.append(60 * budget.minutes)
    if budget.gpu_hours is not None:
        most.append(3600 * budget.gpu_hours)
    if budget.until is not None:
        now = now or datetime.now(UTC)
        most.append(max(0.0, (deadline(budget.until, now) - now).total_seconds()))
    return min(budget.trials, int(-(-min(most) // seconds))) if seconds > 0 else budget.trials
