"""Worker processes of this machine, watched until the last has left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from fairtune.errors import StudyError
from fairtune.study.launch.crew import LEFT, REQUEUE, Crew, goes_on, in_words
from fairtune.study.launch.logs import all_lost
from fairtune.training.tied import tied

_FIRST_PAUSE = 1.0
_SOUND_SECONDS = 3600.0
"""A worker that has lived for so long has all its restarts again."""


@dataclass(eq=False)
class _Worker:
    slot: int
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)
    restarts: int = 0
    due: float | None = None


@dataclass(eq=False)
class Team:
    """One process for every worker of a crew; a process that dies is started again.

    What it ran is not lost with it: another worker, or its successor, makes the run again from
    its last checkpoint.

    Args:
        crew: What is started.
        surroundings: What the environment of the worker of a slot holds beside the crew's.
        restarts: How often a process that died is replaced.
        tell: Takes lines for people.
        grace: Seconds that a worker which was told to leave has for it.
    """

    crew: Crew
    surroundings: Callable[[int], Mapping[str, str]]
    restarts: int
    tell: Callable[[str], None]
    grace: float = 300.0
    ended: dict[int, int] = field(default_factory=dict)
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _told: float | None = None

    def __enter__(self) -> Team:
        try:
            for slot in range(self.crew.workers):
                self._workers[slot] = _Worker(slot, self._start(slot))
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kill()

    def log(self, slot: int) -> Path:
        """Return where the worker of `slot` writes what it says."""
        return self.crew.folder / f"worker-{slot}.log"

    def going(self) -> bool:
        """Look after the processes; tell whether any of them has not left for good."""
        for worker in list(self._workers.values()):
            if worker.due is not None:
                if self._told is not None:
                    self._leave(worker, REQUEUE)
                elif time.monotonic() >= worker.due:
                    worker.process, worker.due = self._start(worker.slot), None
                    worker.began = time.monotonic()
            elif (code := worker.process.poll()) is not None:
                self._ended(worker, code)
        if self._workers and self._told is not None and time.monotonic() - self._told > self.grace:
            self._give_up()
        return bool(self._workers)

    def dismiss(self) -> None:
        """Ask every worker to keep the state of its run and to leave; once."""
        if self._told is not None:
            return
        self._told = time.monotonic()
        for worker in self._workers.values():
            if worker.due is None and worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)

    def check(self) -> None:
        """Refuse an end at which no worker found the work done, or was told to leave.

        Raises:
            StudyError: With the last words of one.
        """
        if self._told is not None or any(code in LEFT for code in self.ended.values()):
            return
        slot, code = next(iter(self.ended.items()))
        raise all_lost(self.log(slot), in_words(code))

    def _start(self, slot: int) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.surroundings(slot), **self.crew.environment()}
        with self._writing(slot) as log:
            # A session of its own: Ctrl-C reaches this process alone, which passes it on.
            return subprocess.Popen(
                tied(self.crew.command(slot)),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _writing(self, slot: int) -> IO[bytes]:
        try:
            self.crew.folder.mkdir(parents=True, exist_ok=True)
            return self.log(slot).open("ab")
        except OSError as error:
            raise StudyError(
                "cannot write the log of a worker",
                where=self.log(slot),
                found=error.strerror,
            ) from None

    def _ended(self, worker: _Worker, code: int) -> None:
        if time.monotonic() - worker.began >= _SOUND_SECONDS:
            worker.restarts = 0
        if self._told is not None or not goes_on(code, worker.restarts, self.restarts):
            self._leave(worker, code)
            if code not in LEFT:
                self.tell(f"worker {worker.slot}: {in_words(code)}; see {self.log(worker.slot)}")
            return
        pause = _FIRST_PAUSE * 4**worker.restarts
        worker.restarts += 1
        worker.due = time.monotonic() + pause
        self.tell(
            f"worker {worker.slot}: {in_words(code)}; started again in {pause:.0f} s "
            f"({worker.restarts} of {self.restarts})"
        )

    def _leave(self, worker: _Worker, code: int) -> None:
        self.ended[worker.slot] = code
        del self._workers[worker.slot]

    def _give_up(self) -> None:
        slots = ", ".join(map(str, self._workers))
        self.tell(f"worker {slots}: has not left within {self.grace:.0f} s; killed")
        self._kill()

    def _kill(self) -> None:
        """End what still runs; nothing is left when this process has been left."""
        running = [w.process for w in self._workers.values() if w.process.poll() is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                # Its whole session: it may have processes that share its runs.
                os.killpg(process.pid, signal.SIGKILL)
        for process in running:
            process.wait()
