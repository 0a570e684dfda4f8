"""What every worker of a study is started with."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairtune.study.storages import redact

ERROR = 2
"""Exit code of a command that a person has to mend; starting it again would say the same."""

REQUEUE = 75
"""Exit code of a worker that was told to leave before the work was done (EX_TEMPFAIL)."""

STORAGE, STUDY = "FAIRTUNE_STORAGE", "FAIRTUNE_STUDY"


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
        shared = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={self.processes}",
        ]
        named = [] if slot is None else [f"--slot={slot}"]
        return [
            self.python,
            *(shared if self.processes > 1 else []),
            *("-m", "fairtune", "worker", f"--study={self.study}", *self.options, *named),
        ]

    def environment(self) -> Mapping[str, str]:
        """Return what is added to the environment of a worker."""
        found = {STORAGE: self.storage, STUDY: self.study}
        if self.processes > 1:
            # torchrun would die of any other signal, without telling its processes.
            found["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT,SIGUSR1"
        return found

    def shown(self, slot: int | str | None = None) -> str:
        """Return the command as a shell takes it; `$NAME` in `slot` stays as it is."""
        words = [shlex.quote(word) if "$" not in word else word for word in self.command(slot)]
        return " ".join(words)

    @property
    def shown_storage(self) -> str:
        """The storage URL with its password hidden."""
        return redact(self.storage)
