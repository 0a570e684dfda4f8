"""What a job does whose callable submitit has pickled; see `Keeper`.

This module travels whole, by value, to a process that stays beside the worker as long as it runs:
so it imports nothing that is not Python's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


class Keeper:
    """Runs one worker as a process of its own, and passes on what SLURM says.

    The warning before the end of the time, and SIGTERM of scancel or of a preemption, go to the
    worker, which keeps the state of its run and leaves. Then the job goes back into the queue by
    submitit's own handler of the warning, which stores what `checkpoint` returns. After SIGTERM it
    does not: where it was a preemption SLURM itself puts it back.

    Args:
        requeue: Exit code of a worker that was told to leave.
        error: Exit code of one that somebody has to mend.
        deaths: How often a job is started again whose worker died.
    """

    def __init__(self, requeue: int, error: int, deaths: int) -> None:
        self.requeue, self.error, self.deaths = requeue, error, deaths

    def __call__(self, command: Sequence[str]) -> None:
        """Return when the worker has found the work done.

        Args:
            command: Of the worker.

        Raises:
            SystemExit: It left otherwise, and does not go back into the queue; its exit code.
        """
        told: list[int] = []
        child: list[subprocess.Popen[bytes]] = []

        def pass_on(number: int, frame: Any) -> None:
            told.append(number)
            for process in child:
                process.send_signal(number)

        handler = signal.getsignal(signal.SIGUSR1)
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, pass_on)
        child.append(subprocess.Popen(command))
        for early in list(told):
            child[0].send_signal(early)
        code = child[0].wait()
        if code == 0:
            return
        again = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        returns = code == self.requeue or (code != self.error and again < self.deaths)
        if returns and signal.SIGTERM not in told:
            signal.signal(signal.SIGUSR1, handler)
            signal.raise_signal(signal.SIGUSR1)
        sys.exit(max(code, 1))

    def checkpoint(self, command: Sequence[str]) -> Any:
        """Return what the job does once it runs again: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, command)
