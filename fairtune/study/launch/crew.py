"""What every worker of a study is started with."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairtune.study.storages import redact

ERROR = 2
"""Exit code of a command that a person has to mend; starting it again would say the same."""

REQUEUE = 75
"""Exit code of a worker that was told to leave before the work was done (EX_TEMPFAIL)."""

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C has ended."""

LEFT = (0, REQUEUE, INTERRUPTED)
"""Exit codes of a worker that has found the work done, or was told to leave."""

STORAGE = "FAIRTUNE_STORAGE"


@dataclass(frozen=True)
class Crew:
    """The workers of one study, all alike.

    Attributes:
        study: Name of the study.
        storage: Its storage URL. It reaches workers in the environment alone: command lines and
            scripts are read by others.
        folder: Where logs and scripts of workers go.
        workers: How many are wanted.
        options: Options of `fairtune worker` that all have.
        processes: Processes, each with a device of its own, that share every batch of a run.
        per_device: Workers that share a device.
        devices: Accelerators of this machine, as `CUDA_VISIBLE_DEVICES` calls them.
        python: The interpreter.
    """

    study: str
    storage: str
    folder: Path
    workers: int
    options: Sequence[str] = ()
    processes: int = 1
    per_device: int = 1
    devices: Sequence[str] = ()
    python: str = sys.executable

    def command(self, slot: int | str | None = None) -> list[str]:
        """Return the command of one worker.

        Args:
            slot: Number of the worker among all of the study, so that workers draw different
                points; a text stands for something that a shell fills in. None: the worker
                takes one by itself.
        """
        shared = [f"--gpus-per-run={self.processes}"] if self.processes > 1 else []
        named = [] if slot is None else [f"--slot={slot}"]
        command = [self.python, "-m", "fairtune", "worker", f"--study={self.study}"]
        return [*command, *self.options, *shared, *named]

    def environment(self) -> Mapping[str, str]:
        """Return what is added to the environment of a worker."""
        return {STORAGE: self.storage}

    def shown(self, slot: int | str | None = None) -> str:
        """Return the command as a shell takes it; `$NAME` in `slot` stays as it is."""
        words = [shlex.quote(word) if "$" not in word else word for word in self.command(slot)]
        return " ".join(words)

    @property
    def shown_storage(self) -> str:
        """The storage URL with its password hidden."""
        return redact(self.storage)


def goes_on(code: int, restarts: int, most: int) -> bool:
    """Tell whether a worker that ended with `code` is to be started again.

    Args:
        code: Its exit code; below 0 the signal that killed it.
        restarts: How often it has been.
        most: How often it may be.
    """
    return code not in (*LEFT, ERROR) and restarts < most


def in_words(code: int) -> str:
    """Return an exit code for people."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"left with exit code {code}"
