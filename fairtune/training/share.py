"""A command whose runs the processes of torchrun share: the first leads it, the others follow."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

from fairtune.errors import RunError
from fairtune.training.job import Wanted
from fairtune.training.observer import Follower
from fairtune.training.ranks import Dismissed, current, joined, not_together
from fairtune.training.session import Session
from fairtune.training.train import in_turns


@contextlib.contextmanager
def shared(
    session: Session, poll: Callable[[], str | None], *, together: int = 1
) -> Iterator[bool]:
    """Share the runs of a command with the processes that torchrun started for it.

    The first process gets True and does all of the command: whatever runs it makes meanwhile the
    others make with it. They get False when that is over, and have nothing more to do. Without
    torchrun this process is the first and the only one.

    Args:
        session: Of this process; all have theirs from the same options.
        poll: Reason to stop now, or None; on any process it stops the run of all.
        together: Runs that the command would make at once.

    Raises:
        ConfigError: Runs are to be made together by several processes.
        RunError: This process follows, and memory ran out or another process ended.
        FairtuneError: It follows, and a prerequisite cannot be had here.
    """
    session.poll = poll
    with joined(session.settings) as ranks:
        if not ranks.alone and together > 1:
            raise not_together(together)
        if ranks.rank:
            _follow(session)
            yield False
            return
        try:
            yield True
        finally:
            # Nobody is left to be told where a run broke off here.
            with contextlib.suppress(RunError):
                current().lead(Dismissed())


def _follow(session: Session) -> None:
    """Take part in every run of rank 0 until it has no more."""
    session.progress = None
    nothing: Wanted | None = None
    with contextlib.suppress(Dismissed):
        while (wanted := current().lead(nothing)) is not None:
            session.held = max(session.held, wanted.held)
            job = dataclasses.replace(wanted.job, observer=Follower(session.poll))
            for _, end, alike in in_turns([job], session):
                # What failed alike in all processes is for rank 0 to judge.
                if not alike and isinstance(end, Exception):
                    raise end
