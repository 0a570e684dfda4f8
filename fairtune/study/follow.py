"""Where a study stands, from its rows alone: no results folder, no data, no torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from fairtune.errors import StorageError
from fairtune.study.asked import Stopping, enqueued, stopping
from fairtune.study.budget import busy_seconds
from fairtune.study.ledger import Ledger
from fairtune.study.options import Options, is_gone
from fairtune.study.outcome import FINAL_SET
from fairtune.study.overview import LABEL, Overview
from fairtune.study.parts import share_done, shown
from fairtune.study.place import Place
from fairtune.study.planned import planned_runs
from fairtune.study.rank import DEGENERATE, best_baselines, ranked
from fairtune.study.rows import (
    BASELINE,
    CONFIRM,
    CONTROL,
    FINAL,
    SEARCH,
    STALE,
    Row,
    counts,
    current,
    due,
    in_brief,
    results,
    roots,
)

ORDER = (BASELINE, SEARCH, CONTROL, CONFIRM, FINAL)
GRACE = Options().grace
"""Seconds of silence after which other workers give a run up."""


@dataclass(frozen=True)
class PhaseState:
    """How far one phase is.

    Attributes:
        phase: `baseline`, `search`, `control`, `confirm` or `final`.
        planned: Runs it will have, where that is known; of confirm, until the search has ended,
            and of the baselines, until it begins, the most there can be.
        left: Runs that have not begun, those that are due again among them.
        complete, pruned, failed, running, retrying: Runs (not attempts) by state.
    """

    phase: str
    planned: int | None
    left: int
    complete: int
    pruned: int
    failed: int
    running: int
    retrying: int


@dataclass(frozen=True)
class Running:
    """A run that is under way.

    Attributes:
        phase: Its phase.
        trial: Number of its row, from 1.
        attempt: From 1.
        label: Name of an anchor, baseline or candidate, or nothing.
        mask: One character per block: `.` frozen, `:` a part, `#` everything trains; behind it
            the mitigations.
        worker: Host and process.
        seconds: Since it began.
        silent: Seconds since its last beat, by the clocks of both machines; None when the row was
            made by a version that did not say.
        gone: Its process was on this machine and no longer runs.
        epoch, epochs: Epochs done and planned, once the first has ended.
        value: Primary objective after that epoch.
        part: Level and fold of the run, as `level 1/2 fold 3/5 `; nothing where there is one.
        done: Share of the trial's epochs, in [0, 1].
    """

    phase: str
    trial: int
    attempt: int
    label: str
    mask: str
    worker: str
    seconds: float
    silent: float | None
    gone: bool
    epoch: int | None
    epochs: int | None
    value: float | None
    part: str = ""
    done: float = 0.0

    @property
    def lost(self) -> bool:
        """Whether nobody seems to work on it any more."""
        return self.gone or (self.silent is not None and self.silent > GRACE)


@dataclass(frozen=True)
class Figure:
    """A recipe with its value on validation.

    Attributes:
        label: Name, or `trial N`.
        value: Shrunken mean (search), best of its points (baseline), mean of seeds (confirm).
        runs: Runs behind it.
        mask: As in `Running`.
        note: Why its predictions count for little, or None.
        groups: AUC of every group that is large enough, by `ATTRIBUTE/GROUP`.
    """

    label: str
    value: float
    runs: int
    mask: str = ""
    note: str | None = None
    groups: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A run whose last attempt failed.

    Attributes:
        phase, trial, label: As in `Running`.
        reason: One word.
        detail: The last line of what it said, or nothing.
        again: Whether it will be tried once more.
    """

    phase: str
    trial: int
    label: str
    reason: str
    detail: str
    again: bool


@dataclass(frozen=True)
class State:
    """A study at one moment.

    Attributes:
        study: Its name.
        storage: URL, password hidden.
        objectives: The primary one first.
        at: Time of reading, UTC.
        phases: In order; only those that have begun or are planned.
        running: Runs under way.
        best: Best shrunken mean of the search, None before the first finished trial.
        baselines: Each at its best point so far.
        confirmed: Means of the confirm runs.
        failures: Runs whose last attempt failed.
        left_seconds: Estimated time until confirm ends with as many runs at once as now; None
            before the first run has ended.
        finished: Nothing runs and nothing is left.
        tested: Label of the pick that was retrained and tested, or None.
        stop: The order of `fairtune stop` that holds, or None.
        enqueued: Labels of the points of `fairtune enqueue` that have not begun.
    """

    study: str
    storage: str
    objectives: tuple[str, ...]
    at: datetime
    phases: tuple[PhaseState, ...]
    running: tuple[Running, ...]
    best: Figure | None
    baselines: tuple[Figure, ...]
    confirmed: tuple[Figure, ...]
    failures: tuple[Failure, ...]
    left_seconds: float | None
    finished: bool
    tested: str | None
    stop: Stopping | None = None
    enqueued: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "at": self.at.isoformat(timespec="seconds")}


def state_of(view: Overview, now: datetime | None = None) -> State:
    """Return where a study stands.

    Args:
        view: The study as it was read.
        now: Time of reading, in UTC.
    """
    now = now or datetime.now(UTC)
    phases = _phases(view, now)
    running = _running(view, now)
    final = view.attrs.get(FINAL_SET)
    return State(
        study=view.place.name,
        storage=view.url,
        objectives=tuple(str(o) for o in view.judge.objectives),
        at=now,
        phases=phases,
        running=running,
        best=_best(view),
        baselines=_baselines(view),
        confirmed=_confirmed(view),
        failures=_failures(view),
        left_seconds=_left(view, phases, running, now),
        finished=not running and not any(phase.left for phase in phases),
        tested=str(final["pick"]) if isinstance(final, dict) else None,
        stop=stopping(view),
        enqueued=enqueued(view),
    )


def follow(
    place: Place, interval: float, wait: Callable[[float], None] = time.sleep
) -> Iterator[State | StorageError]:
    """Yield the state of a study every `interval` seconds until it is finished.

    A storage that does not answer is yielded as its error and asked again.

    Raises:
        StudyError: There is no such study.
        StorageError: Its storage cannot be reached at the beginning.
    """
    state = state_of(Overview.load(place))
    yield state
    # One ledger for all readings: of finished rows it asks the storage once.
    with Ledger.open(place.url, place.name, options=Options(patience=interval)) as ledger:
        while not state.finished:
            wait(interval)
            try:
                state = state_of(Overview.read(ledger, place))
            except StorageError as error:
                yield error
                continue
            yield state


def _phases(view: Overview, now: datetime) -> tuple[PhaseState, ...]:
    found = []
    for phase, planned in planned_runs(view, now).items():
        rows = view.rows[phase]
        tally = counts(rows)
        begun = len(roots(rows))
        if not begun and not planned:
            continue
        left = max(0, (planned or 0) - begun) + tally["retrying"]
        known = {s: tally[s] for s in ("complete", "pruned", "failed", "running", "retrying")}
        found.append(PhaseState(phase, planned, left, **known))
    return tuple(found)


def _running(view: Overview, now: datetime) -> tuple[Running, ...]:
    rows = [row for phase in ORDER for row in view.rows[phase] if row.state == "running"]
    return tuple(
        Running(
            phase=row.phase,
            trial=row.number + 1,
            attempt=row.attempt + 1,
            label=str(row.attrs.get(LABEL, "")),
            mask=in_brief(row.attrs, row.recipe),
            worker=":".join(row.worker.split(":")[:2]),
            seconds=_since(row.started, now) or 0.0,
            silent=_since(row.beaten, now),
            gone=is_gone(row.worker),
            epoch=row.progress.get("epoch"),
            epochs=row.progress.get("of"),
            value=row.progress.get("objective"),
            part=shown(row.progress),
            done=share_done(row.progress),
        )
        for row in rows
    )


def _since(moment: datetime | None, now: datetime) -> float | None:
    # A clock that runs ahead of ours must not make a beat of the future.
    return None if moment is None else max(0.0, round((now - moment).total_seconds(), 1))


def _best(view: Overview) -> Figure | None:
    entries = [e for e in ranked(view.rows[SEARCH], view.judge.primary.sign) if not e.unusable]
    if not entries:
        return None
    entry, first = entries[0], entries[0].rows[0]
    groups = {
        name.removeprefix("auc@"): float(value)
        for name, value in first.attrs.items()
        if name.startswith("auc@") and "/" in name
    }
    label, mask = f"trial {first.number + 1}", in_brief(first.attrs, first.recipe)
    return Figure(label, entry.shrunk, len(entry.rows), mask, entry.degenerate, groups)


def _baselines(view: Overview) -> tuple[Figure, ...]:
    rows = view.rows[BASELINE]
    tried: dict[str, int] = {}
    for row in results(rows):
        label = str(row.attrs.get(LABEL, row.digest))
        tried[label] = tried.get(label, 0) + 1
    return tuple(
        Figure(
            label,
            float((row.values or (0.0,))[0]),
            tried[label],
            in_brief(row.attrs, row.recipe),
            row.attrs.get(DEGENERATE),
        )
        for label, row in best_baselines(rows, view.judge.primary.sign).items()
    )


def _confirmed(view: Overview) -> tuple[Figure, ...]:
    groups: dict[str, list[Row]] = {}
    for row in results(view.rows[CONFIRM]):
        groups.setdefault(str(row.attrs.get(LABEL, row.digest)), []).append(row)
    return tuple(
        Figure(
            label,
            statistics.mean(row.values[0] for row in rows if row.values),
            len(rows),
            in_brief(rows[0].attrs, rows[0].recipe),
            next((str(r.attrs[DEGENERATE]) for r in rows if r.attrs.get(DEGENERATE)), None),
        )
        for label, rows in groups.items()
    )


def _failures(view: Overview) -> tuple[Failure, ...]:
    found = []
    for phase in ORDER:
        rows = view.rows[phase]
        again = {row.key for row in due(rows)}
        for row in current(rows).values():
            if row.state == "failed":
                said = str(row.attrs.get("detail", "")).strip().splitlines()
                label, last = str(row.attrs.get(LABEL, "")), said[-1] if said else ""
                reason = row.reason or "unknown"
                number, waits = row.number + 1, row.key in again
                found.append(Failure(phase, number, label, reason, last, waits))
    return tuple(found)


def _left(
    view: Overview, phases: Sequence[PhaseState], running: Sequence[Running], now: datetime
) -> float | None:
    """Return the estimated seconds until confirm ends, by the mean run of each phase."""
    spent = {phase: _durations(view.rows[phase]) for phase in (BASELINE, SEARCH, CONTROL, CONFIRM)}
    known = [s for seconds in spent.values() for s in seconds]
    if not known:
        return None
    mean = {p: statistics.mean(s) if s else statistics.mean(known) for p, s in spent.items()}
    live = [run for run in running if not run.lost]
    lanes = max(1, len(live))
    total = 0.0
    for phase in phases:
        if phase.phase in mean:
            part = phase.left * mean[phase.phase] / lanes
            total += min(part, _time_of_search(view, now)) if phase.phase == SEARCH else part
    for run in live:
        total += mean.get(run.phase, 0.0) * (1 - run.done) / lanes
    return round(total, 1)


def _time_of_search(view: Overview, now: datetime) -> float:
    minutes = view.settings["budget"].get("minutes")
    if minutes is None:
        return float("inf")
    return max(0.0, 60 * float(minutes) - busy_seconds(view.rows[SEARCH], now))


def _durations(rows: Sequence[Row]) -> list[float]:
    return [
        (row.finished - row.started).total_seconds()
        for row in current(rows).values()
        if row.has_result and row.started and row.finished and row.reason != STALE
    ]
