"""The loop of a worker; there is no other."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from fairtune.errors import StorageError
from fairtune.study.ledger import Claim, Ledger, Phase
from fairtune.study.rows import Failed, Outcome

Execute: TypeAlias = Callable[[Sequence[Claim]], Iterable[tuple[Claim, Outcome]]]
"""Runs claims and yields each with its outcome as soon as it is known.

A claim that it leaves out, because it was told to stop, is given back by the loop. It reads
`claim.poll()` at every step, and its own stop flag.
"""


FAILING = "runs failed one after another"
"""How the reason ends for which a worker leaves whose runs all fail."""


class Exit(enum.Enum):
    """Why a worker left."""

    DONE = "nothing is left to do"
    STOPPED = "it was told to stop"
    SPENT = "it has made as many runs as it may"
    IDLE = "others run all that is left"


@dataclass(frozen=True)
class Limits:
    """What one worker takes on.

    Attributes:
        together: Rows run at once.
        idle: Seconds to wait while only others have work.
        failures: Runs failed one after another before the worker leaves: its node is broken.
        runs: Runs that it makes at most, None for any number.
        waits: Stay while others run what is left, for what they may leave behind.
    """

    together: int = 1
    idle: float = 5.0
    failures: int = 3
    runs: int | None = None
    waits: bool = True


class Stop(Protocol):
    """Tells a worker to leave."""

    def reason(self) -> str | None:
        """Return why to leave, or None."""

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or at once when there is a reason."""

    def request(self, reason: str) -> None:
        """Set the reason; the first one stays."""


class StopFlag:
    """A `Stop` that any thread or signal handler may set, with an optional end of time.

    Args:
        seconds: Time after which it is set by itself, None for never.
        clock: In seconds.
    """

    def __init__(
        self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._event, self._reason = threading.Event(), ""
        self._clock = clock
        self._end = None if seconds is None else clock() + seconds

    def request(self, reason: str) -> None:
        """Set the reason; the first one stays."""
        if not self._event.is_set():
            self._reason = reason
            self._event.set()

    def reason(self) -> str | None:
        """Return why to leave, or None."""
        if self._end is not None and self._clock() >= self._end:
            self.request("the time is over")
        return self._reason if self._event.is_set() else None

    def wait(self, seconds: float) -> None:
        """Return after `seconds`, or at once when there is a reason."""
        if self._end is not None:
            seconds = min(seconds, max(0.0, self._end - self._clock()))
        self._event.wait(seconds)


def work(
    ledger: Ledger, phases: Sequence[Phase], execute: Execute, limits: Limits, stop: Stop
) -> Exit:
    """Run what the phases propose until nothing is left or `stop` says so.

    Args:
        ledger: The study.
        phases: In the order in which they are asked.
        execute: Runs claims; see `Execute`.
        limits: What this worker takes on.
        stop: Asked between rows; a run that is under way sees it through `execute`. Where
            `fairtune stop` was given, that becomes its reason.

    Returns:
        `DONE` when no phase has anything to do and no other worker runs a row, `SPENT` or `IDLE`
        when the limits say so; else `STOPPED`.
    """
    execute, made = _counted(execute, limits.failures, stop), 0
    while stop.reason() is None:
        left = limits.together if limits.runs is None else limits.runs - made
        if left <= 0:
            return Exit.SPENT
        claims = _taken_on(ledger, phases, min(left, limits.together), stop)
        if claims is None:
            break
        if claims:
            made += len(claims)
            with ledger.beating(claims, stop.reason):
                for claim, outcome in execute(claims):
                    ledger.finish(claim, outcome)
        elif not ledger.others_running():
            return Exit.DONE
        elif not limits.waits:
            return Exit.IDLE
        else:
            stop.wait(limits.idle)
    return Exit.STOPPED


def _taken_on(
    ledger: Ledger, phases: Sequence[Phase], at_most: int, stop: Stop
) -> list[Claim] | None:
    """Return what the worker takes on next; None when it is to leave.

    An order that it hears becomes the reason. A worker that leaves need not see a storage answer
    that is away: nothing of its own runs.
    """
    try:
        told = ledger.told_to_leave()
        if told is not None:
            stop.request(told)
            return None
        ledger.reap(phases)
        return ledger.claim(phases, at_most)
    except StorageError:
        if stop.reason() is None:
            raise
        return None


def _counted(execute: Execute, most: int, stop: Stop) -> Execute:
    """Return `execute` that stops the worker after `most` failures one after another."""
    failures = 0

    def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        nonlocal failures
        for claim, outcome in execute(claims):
            if not isinstance(outcome, Failed):
                failures = 0
            elif outcome.reason != "nan":  # a loss that diverged is the recipe's fault
                failures += 1
            yield claim, outcome
            if failures >= most:
                stop.request(f"{failures} {FAILING}")

    return run
