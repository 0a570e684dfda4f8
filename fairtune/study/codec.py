"""How a row of a study is written as an Optuna trial, and read back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeGuard

from optuna.trial import FrozenTrial, TrialState, create_trial

from fairtune.study.distributions import from_optuna, to_optuna
from fairtune.study.rows import Complete, Failed, Outcome, Proposal, Pruned, Row, Score

# The worker that runs a row writes its outcome, any other that ends it writes `taken`: whoever
# wins the race for the row's state, what the other wrote is not in the way.
BEAT, OUTCOME, TAKEN = "beat", "outcome", "taken"
# Optuna's own older form of constraints: one list, so one transaction, and the dashboard reads it.
CONSTRAINTS = "constraints"
RUNGS = "fairtune:rungs"
"""Attribute of a trial in memory: its scores by epoch, in a study with several objectives."""

_OWN = (
    "kind", "digest", "key", "replicate", "seed", "recipe",
    "attempt", "root", "worker", "claim", "recovered", "started",
    BEAT, OUTCOME, TAKEN,
)  # fmt: skip
_STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Origin:
    """Who made a row and as which attempt.

    Attributes:
        worker: Name of the worker.
        token: Random mark by which a worker knows its own row again.
        attempt: 0 for the first try.
        root: Number of the first attempt's row, None when this is it.
        recovered: The row holds a result whose own row had been failed.
    """

    worker: str
    token: str
    attempt: int = 0
    root: int | None = None
    recovered: bool = False


def new_trial(
    proposal: Proposal,
    origin: Origin,
    *,
    beat: Mapping[str, Any],
    system_attrs: Mapping[str, Any],
) -> FrozenTrial:
    """Return the running trial that one transaction writes."""
    return create_trial(
        state=TrialState.RUNNING,
        params=dict(proposal.params),
        distributions={name: to_optuna(d) for name, d in proposal.dimensions.items()},
        user_attrs=_attrs(proposal, origin) | {BEAT: dict(beat)},
        system_attrs=dict(system_attrs),
    )


def finished_trial(
    proposal: Proposal,
    origin: Origin,
    *,
    outcome: Outcome,
    beat: Mapping[str, Any],
) -> FrozenTrial:
    """Return a trial that is finished when it is written."""
    system, values = constraints_of(outcome), getattr(outcome, "values", None)
    return create_trial(
        state=state_of(outcome),
        values=None if values is None else list(values),
        params=dict(proposal.params),
        distributions={name: to_optuna(d) for name, d in proposal.dimensions.items()},
        user_attrs=_attrs(proposal, origin)
        | {BEAT: dict(beat), OUTCOME: outcome_attr(outcome, origin.token)},
        system_attrs={} if system is None else {CONSTRAINTS: system},
    )


def beat(
    count: int, rungs: Mapping[int, Score], planned: int | None, progress: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the attribute that a beat writes."""
    scores = {str(e): list(s) if isinstance(s, tuple) else s for e, s in rungs.items()}
    content = {"n": count, "progress": dict(progress), "rungs": scores, "of": planned}
    return content | {"at": now()}


def state_of(outcome: Outcome) -> TrialState:
    """Return the state in which `outcome` leaves a trial."""
    match outcome:
        case Complete():
            return TrialState.COMPLETE
        case Pruned():
            return TrialState.PRUNED
        case Failed():
            return TrialState.FAIL


def for_sampler(trial: FrozenTrial, signs: Sequence[float]) -> FrozenTrial:
    """Return `trial` as a sampler may learn from it.

    Of a pruned trial samplers want to know how far it came and how well it did there. With one
    objective they read it from Optuna's intermediate values, which are filled from our rungs;
    with several Optuna has no such thing, and ours find the rungs in the attribute `RUNGS`. Those
    of complete trials are what it is compared with.

    Args:
        trial: As it was read.
        signs: Per objective 1 when higher is better, -1 when lower is.
    """
    rungs = rungs_of(trial)
    if not trial.state.is_finished() or not rungs:
        return trial
    shown = copy.copy(trial)
    if len(signs) == 1:
        shown.intermediate_values = {e: signs[0] * s for e, s in rungs.items() if is_one(s)}
    else:
        noted: dict[str, Any] = {**trial.system_attrs, RUNGS: rungs}
        shown.system_attrs = noted
    return shown


def rungs_of(trial: FrozenTrial) -> dict[int, Score]:
    """Return the scores that `trial` reached, by epoch."""
    written = trial.user_attrs.get(BEAT, {}).get("rungs", {})
    return {int(e): tuple(s) if isinstance(s, list) else s for e, s in written.items()}


def is_one(score: Score) -> TypeGuard[float]:
    """Tell whether a score is one number."""
    return not isinstance(score, tuple)


def constraints_of(outcome: Outcome) -> list[float] | None:
    """Return the constraint values as the sampler reads them, or None when there are none."""
    if isinstance(outcome, Complete) and outcome.constraints:
        return [float(value) for value in outcome.constraints.values()]
    return None


def outcome_attr(outcome: Outcome, token: str) -> dict[str, Any]:
    """Return everything about an outcome but its values, as one attribute."""
    common: dict[str, Any] = {"claim": token, "at": now(), "state": _STATES[state_of(outcome)]}
    match outcome:
        case Complete(_, attrs, constraints):
            return common | {"attrs": dict(attrs), "constraints": dict(constraints)}
        case Pruned(epoch, _, attrs, reason):
            said = reason or f"pruned at epoch {epoch}"
            return common | {"attrs": {"epoch": epoch, **attrs}, "reason": said}
        case Failed(reason, detail, retry):
            attrs = {"detail": detail} if detail else {}
            return common | {"attrs": attrs, "reason": reason, "retry": retry}


def read_row(phase: str, trial: FrozenTrial) -> Row | None:
    """Return the row that `trial` holds, or None when another program made the trial."""
    attrs = trial.user_attrs
    if not is_ours(trial):
        return None
    beat, outcome = attrs.get(BEAT, {}), ending(trial)
    state = _STATES[trial.state]
    ended = state in ("failed", "pruned")
    root = attrs["root"]
    given = {name: value for name, value in attrs.items() if name not in _OWN}
    return Row(
        phase=phase,
        number=trial.number,
        state=state,
        kind=attrs["kind"],
        params=dict(trial.params),
        dimensions={name: from_optuna(d) for name, d in trial.distributions.items()},
        recipe=attrs["recipe"],
        digest=attrs["digest"],
        key=attrs["key"],
        seed=attrs["seed"],
        replicate=attrs["replicate"],
        attempt=attrs["attempt"],
        root=trial.number if root is None else root,
        worker=attrs["worker"],
        recovered=attrs["recovered"],
        values=None if trial.values is None else tuple(trial.values),
        rungs=rungs_of(trial),
        planned=beat.get("of"),
        reason=outcome.get("reason", "unknown") if ended else None,
        retryable=bool(outcome.get("retry", False)),
        beat=beat.get("n", 0),
        beaten=_time(beat.get("at")),
        progress=beat.get("progress", {}),
        attrs=given | outcome.get("attrs", {}),
        given=given,
        constraints=outcome.get("constraints", {}),
        started=_time(attrs["started"]),
        finished=_time(outcome.get("at")) if state != "running" else None,
    )


def is_ours(trial: FrozenTrial) -> bool:
    """Tell whether `trial` is a row, which is whole from the first; not another program's."""
    return has_marks(trial.user_attrs)


def has_marks(attrs: Mapping[str, Any]) -> bool:
    """Tell whether attributes of a trial are those of a row."""
    return "key" in attrs and "recipe" in attrs


def beaten(row: Row, trial: FrozenTrial) -> Row:
    """Return `row`, which runs, with what `trial`, read later, last said of itself."""
    beat = trial.user_attrs.get(BEAT, {})
    return replace(
        row,
        rungs=rungs_of(trial),
        planned=beat.get("of"),
        beat=beat.get("n", 0),
        beaten=_time(beat.get("at")),
        progress=beat.get("progress", {}),
    )


def ending(trial: FrozenTrial) -> dict[str, Any]:
    """Return what was written by whoever ended `trial`, empty while it runs."""
    for name in (OUTCOME, TAKEN):
        written: dict[str, Any] = trial.user_attrs.get(name, {})
        if written.get("state") == _STATES[trial.state]:
            return written
    return {}


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _attrs(proposal: Proposal, origin: Origin) -> dict[str, Any]:
    taken = sorted(set(proposal.attrs) & set(_OWN))
    if taken:
        raise ValueError(f"a proposal's attributes may not be called {', '.join(taken)}")
    return {
        **proposal.attrs,
        "kind": proposal.kind,
        "digest": proposal.digest,
        "key": proposal.key,
        "replicate": proposal.replicate,
        "seed": dict(proposal.seed),
        "recipe": dict(proposal.recipe),
        "attempt": origin.attempt,
        "root": origin.root,
        "worker": origin.worker,
        "claim": origin.token,
        "recovered": origin.recovered,
        "started": now(),
    }


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
