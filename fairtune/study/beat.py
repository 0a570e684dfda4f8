"""The thread that says "still alive" for the rows a worker runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

from fairtune.study.claim import Claim

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.5


class Beats:
    """Beats for `claims` until it is left.

    A beat that fails, for whatever reason, is tried again with growing pauses for as long as the
    runs last: a database that is away for an hour must not cost a GPU-day.

    Args:
        claims: The rows that run.
        beat: Writes one beat of one claim.
        every: Seconds between two beats of a claim.
    """

    def __init__(
        self, claims: Sequence[Claim], beat: Callable[[Claim], None], every: float
    ) -> None:
        self._claims, self._beat, self._every = claims, beat, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fairtune-beat", daemon=True)

    def __enter__(self) -> Beats:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        # A beat that hangs in a dead connection must not keep the worker from leaving.
        self._thread.join(timeout=10)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        wait = self._every
        while not self._over.wait(wait):
            if self._round():
                pause, wait = _FIRST_PAUSE, self._every
            else:
                wait = min(pause, self._every)
                pause *= 2

    def _round(self) -> bool:
        went_well = True
        for claim in self._claims:
            try:
                self._beat(claim)
            except Exception as error:
                # Not the text of the error: it may hold the address of the database.
                log.warning("beat of row %d: %s, trying again", claim.number, type(error).__name__)
                went_well = False
        return went_well
