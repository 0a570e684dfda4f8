"""An array of jobs after it was submitted: is it there, how does it go, what has failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from fairtune.errors import StudyError
from fairtune.study.launch.logs import all_lost
from fairtune.study.launch.slurm_queue import Job, Task, tasks
from fairtune.study.worker import Stop

_PAUSE = 5.0
DONE = "COMPLETED"


@dataclass(eq=False)
class Array:
    """The jobs of one array, as `squeue` last showed them.

    Args:
        job: The array.
    """

    job: Job
    seen: dict[str, Task] = field(default_factory=dict)
    _silent: bool = False

    def in_queue(self) -> str:
        """Return where the jobs stand, for people.

        Raises:
            StudyError: SLURM took them, and knows nothing of them.
        """
        self.seen |= tasks(self.job.id)
        if not self.seen:
            raise StudyError(
                "SLURM has taken the jobs and does not know them",
                where=f"squeue --jobs={self.job.id}",
                todo="look at the controller's log; nothing runs",
            )
        return f"job {self.job.id}: {self._counts()}"

    def follow(self, stop: Stop, tell: Callable[[str], None], look: Callable[[], None]) -> bool:
        """Return once no job waits or runs; False when `stop` has a reason before.

        Raises:
            StudyError: Every job failed; with the last words of one.
        """
        told: set[str] = set()
        while stop.reason() is None:
            self._ask(tell)
            for name in sorted(self.seen.keys() - told):
                task = self.seen[name]
                if task.ended and task.state != DONE:
                    told.add(name)
                    tell(f"job {name}: {task.state}; see {self.job.log_of(name)}")
            look()
            if all(task.ended for task in self.seen.values()):
                self._check()
                return True
            stop.wait(_PAUSE)
        tell(f"job {self.job.id} goes on without this process; cancel: scancel {self.job.id}")
        return False

    def _ask(self, tell: Callable[[str], None]) -> None:
        try:
            known = tasks(self.job.id)
        except StudyError as error:
            if not self._silent:
                tell(f"SLURM does not answer, asking again: {error.found or error.what}")
            self._silent = True
            return
        self._silent = False
        for name, task in self.seen.items():
            if name not in known and not task.ended:
                # It has ended, long enough ago for SLURM to have forgotten how.
                self.seen[name] = Task("FORGOTTEN", task.reason)
        self.seen |= known

    def _check(self) -> None:
        failed = {n: t for n, t in self.seen.items() if t.state not in (DONE, "FORGOTTEN")}
        if len(failed) < len(self.seen):
            return
        name, task = next(iter(failed.items()))
        raise all_lost(self.job.log_of(name), f"{task.state} ({task.reason})")

    def _counts(self) -> str:
        found = Counter((task.state, task.reason) for task in self.seen.values())
        words = [
            f"{count} {state.lower()}{'' if reason == 'None' else f' ({reason})'}"
            for (state, reason), count in found.items()
        ]
        return ", ".join(words)
