"""How one process takes part in a study; none of it is stored."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from fairtune.config import digest
from fairtune.study.form import Form
from fairtune.study.pruners import Pruner
from fairtune.study.pruners.asha import Asha
from fairtune.study.samplers import Sampler
from fairtune.study.samplers.tpe import Tpe


@dataclass(frozen=True)
class Options:
    """How this process takes part in a study; nothing here is stored.

    Attributes:
        sampler: Declaration of the sampler.
        pruner: Declaration of the pruner.
        form: How sampler and pruner see several objectives.
        seed: The study's seed.
        slot: This worker's index among those of the study; workers that draw at the same moment
            draw different points.
        worker: This worker's name; None makes one of host, process and a random mark.
        grace: Seconds without a beat after which a run counts as lost.
        beat_every: Seconds between beats; None means a fifth of the grace, at most a minute.
        patience: Seconds for which a storage that does not answer is asked again.
        clock: This worker's clock, in seconds.
        leaving: Tells whether this process is to leave; then it does not wait long for a storage.
    """

    sampler: Sampler = field(default_factory=Tpe)
    pruner: Pruner = field(default_factory=Asha)
    form: Form = field(default_factory=Form)
    seed: int = 0
    slot: int = 0
    worker: str | None = None
    grace: float = 600.0
    beat_every: float | None = None
    patience: float = 600.0
    clock: Callable[[], float] = time.monotonic
    leaving: Callable[[], object] = lambda: None


def worker_name() -> str:
    """Return a name for this worker: host, process, space of process numbers, random mark."""
    return f"{socket.gethostname()}:{os.getpid()}:{_space()}:{uuid.uuid4().hex[:6]}"


def is_gone(worker: str) -> bool:
    """Tell whether `worker` was a process of this machine that no longer runs.

    Of a worker on another machine, or in another container, nothing is known: False.
    """
    parts = worker.rsplit(":", 3)
    if len(parts) != 4 or not parts[1].isdigit():
        return False
    if parts[0] != socket.gethostname() or parts[2] != _space():
        return False
    try:
        return psutil.Process(int(parts[1])).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _space() -> str:
    """Return what tells process numbers of this boot and container from those of others."""
    return _space_of(socket.gethostname(), os.getpid())


@functools.lru_cache(maxsize=1)
def _space_of(host: str, process: int) -> str:
    # Of this process; asked for every row that runs, and read once.
    marks = [host]
    with contextlib.suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        marks.append(str(Path("/proc/self/ns/pid").readlink()))
    return digest(marks)[:6]
