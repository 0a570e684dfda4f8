"""Launchers: how the workers of a study are started.

Every launcher starts the same command, `fairtune worker`, which needs the storage and the name of
the study alone. A launcher knows nothing of trials, and workers nothing of who started them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from fairtune.config import Config, Registry
from fairtune.study.launch.crew import Crew
from fairtune.study.worker import Stop

__all__ = ["LAUNCHERS", "Crew", "Launcher"]

LAUNCHERS: Registry[Config] = Registry("launcher", "fairtune.study.launch")


@runtime_checkable
class Launcher(Protocol):
    """Declaration of a launcher; its fields are what `--with NAME=VALUE` sets."""

    @property
    def elsewhere(self) -> bool:
        """Whether workers may run on other machines, which must then reach the storage."""

    def launch(
        self,
        crew: Crew,
        stop: Stop,
        tell: Callable[[str], None],
        look: Callable[[], None],
    ) -> bool:
        """Start the workers of `crew`.

        Args:
            crew: What is started.
            stop: Asked while it waits; when it has a reason, workers are told to leave.
            tell: Takes lines for people.
            look: Called again and again while it waits, to show where the study stands.

        Returns:
            Whether the workers have ended; False when they go on without this process.

        Raises:
            StudyError: They cannot be started, or left without finishing their work.
        """
