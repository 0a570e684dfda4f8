"""Workers on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import ClassVar

from pydantic import Field

from fairtune.config import Config
from fairtune.config.settings import threads_here
from fairtune.errors import ConfigError
from fairtune.study.launch import LAUNCHERS, Crew
from fairtune.study.launch.team import Team
from fairtune.study.worker import Stop

_PAUSE = 0.5


@LAUNCHERS.register("local")
class Local(Config):
    """Starts the workers as processes of this machine and waits for them.

    Each gets its own accelerator (its own ones, where a run takes several), as many share one as
    was asked for; without accelerators they share the cores evenly.

    Attributes:
        restarts: How often a worker that died is replaced; one that has lived for an hour has
            them all again.
        grace: Seconds that workers have to leave once they were told to; then they are killed.
    """

    elsewhere: ClassVar[bool] = False

    restarts: int = Field(default=3, ge=0)
    grace: int = Field(default=300, ge=1)

    def launch(
        self,
        crew: Crew,
        stop: Stop,
        tell: Callable[[str], None],
        look: Callable[[], None],
    ) -> bool:
        """Start the workers and return when the last has left."""
        places = places_of(crew, os.cpu_count() or 1)
        tell(f"{crew.workers} workers, logs in {crew.folder}")
        with Team(crew, places.__getitem__, self.restarts, tell, self.grace) as team:
            while team.going():
                if stop.reason() is not None:
                    team.dismiss()
                look()
                time.sleep(_PAUSE)
            team.check()
        return True


def places_of(crew: Crew, cores: int) -> list[Mapping[str, str]]:
    """Return what the environment of each worker says of where it computes.

    Args:
        crew: Its `devices` are given out one after another, `processes` to a worker, the same
            ones to `per_device` workers.
        cores: Of this machine.

    Raises:
        ConfigError: More workers than the devices can take.
    """
    if not crew.devices:
        if crew.per_device > 1:
            raise ConfigError(
                "there is no accelerator that workers could share",
                where="--workers-per-gpu",
                found=crew.per_device,
                todo="give --workers; without accelerators they share the cores",
            )
        threads = max(1, cores // (crew.workers * crew.processes))
        return [threads_here(threads)] * crew.workers
    groups = len(crew.devices) // crew.processes
    if crew.workers > groups * crew.per_device:
        raise ConfigError(
            "more workers than accelerators",
            where="--workers",
            found=crew.workers,
            allowed=f"at most {groups * crew.per_device}: {len(crew.devices)} accelerators, "
            f"{crew.processes} to a worker, {crew.per_device} workers to each",
            todo="give fewer, or let several share one with --workers-per-gpu",
        )
    found: list[Mapping[str, str]] = []
    for slot in range(crew.workers):
        first = (slot % groups) * crew.processes
        named = ",".join(crew.devices[first : first + crew.processes])
        found.append({"CUDA_VISIBLE_DEVICES": named})
    return found
