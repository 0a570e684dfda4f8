"""Rows that say a run is under way while nobody works on it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from optuna.trial import FrozenTrial, TrialState

from fairtune.study import codec
from fairtune.study.options import Options, is_gone
from fairtune.study.rows import STALE, Failed, Row
from fairtune.study.tend import Tended

GRACE = Options().grace
"""Seconds of silence after which workers give a run up."""


@dataclass(frozen=True)
class Zombie:
    """A row that waits or runs for ever, as far as can be told.

    Attributes:
        phase: Its phase.
        trial: Number of the row, from 1.
        worker: Host and process, or nothing.
        why: What speaks against it.
        trial_id: What the storage calls the row.
        ours: Whether fairtune made it; what another program made is left alone.
    """

    phase: str
    trial: int
    worker: str
    why: str
    trial_id: int
    ours: bool = True


def zombies(
    study: Tended,
    seconds: float | None = None,
    *,
    now: datetime | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> list[Zombie]:
    """Return the rows nobody works on.

    Args:
        study: The study.
        seconds: Look twice so many seconds apart, and list runs whose beat did not move, so that
            no clocks need to agree; at least two of the slowest beats. None goes by the time of
            the last beat and lists those that are silent for longer than the grace.
        now: Time of reading, in UTC.
        wait: Waits between the two readings.
    """
    rows, trials = study.read()
    beats = {(r.phase, r.number): r.beat for r in _running(rows)}
    if seconds is not None and any(not is_gone(row.worker) for row in _running(rows)):
        wait(seconds)
        rows, trials = study.read()
    now = now or datetime.now(UTC)
    found = []
    for row in _running(rows):
        if seconds is None:
            why = _silent(row, now)
        else:
            still = beats.get((row.phase, row.number)) == row.beat
            why = f"its beat stood still for {seconds:g} s" if still else None
        why = "its process has ended" if is_gone(row.worker) else why
        if why is not None:
            host = ":".join(row.worker.split(":")[:2])
            number = trials[row.phase][row.number]._trial_id
            found.append(Zombie(row.phase, row.number + 1, host, why, number))
    return [*found, *(z for phase, every in trials.items() for z in _foreign(phase, every))]


def give_up(study: Tended, found: Sequence[Zombie]) -> list[Zombie]:
    """Fail the rows of vanished workers, each once; return those that were failed here.

    Their runs are tried again as those of any vanished worker. A worker that was silent only, and
    comes back, keeps its result unless the retry has begun.
    """
    outcome = Failed(STALE, "given up by `fairtune zombies`")
    return [
        zombie
        for zombie in found
        if zombie.ours and study.family.end(zombie.trial_id, outcome, uuid.uuid4().hex, own=False)
    ]


def _running(rows: dict[str, list[Row]]) -> list[Row]:
    return [row for mine in rows.values() for row in mine if row.state == "running"]


def _silent(row: Row, now: datetime) -> str | None:
    last = row.beaten or row.started
    if last is None:
        return "it never said anything"
    silence = (now - last).total_seconds()
    return f"silent for {silence / 60:.0f} minutes" if silence > GRACE else None


def _foreign(phase: str, trials: Sequence[FrozenTrial]) -> list[Zombie]:
    open_ = [t for t in trials if not t.state.is_finished() and codec.read_row(phase, t) is None]
    return [
        Zombie(
            phase,
            trial.number + 1,
            "",
            f"{'waits' if trial.state == TrialState.WAITING else 'runs'}, and was made by another "
            "program: no worker takes it up",
            trial._trial_id,
            ours=False,
        )
        for trial in open_
    ]
