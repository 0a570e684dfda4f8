"""Workers that a person starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from fairtune.config import Config
from fairtune.study.launch import LAUNCHERS, Crew
from fairtune.study.worker import Stop


@LAUNCHERS.register("print")
class Print(Config):
    """Shows the command of a worker, to be given wherever one is wanted; starts nothing."""

    elsewhere: ClassVar[bool] = True

    def launch(
        self,
        crew: Crew,
        stop: Stop,
        tell: Callable[[str], None],
        look: Callable[[], None],
    ) -> bool:
        """Tell the command, and what its environment has to hold."""
        tell("# a batch file for SLURM: --launcher slurm --with through=print")
        tell(f"# {crew.workers} workers; in the environment of each, for {crew.shown_storage}:")
        tell("export FAIRTUNE_STORAGE=...")
        tell("# the same command for each, from the folder in which this one was given:")
        tell(crew.shown())
        return False
