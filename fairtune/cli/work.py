"""One worker's part in a study, as `search` and `worker` show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from fairtune.study.launch.crew import INTERRUPTED, REQUEUE

if TYPE_CHECKING:
    from fairtune.study.ledger import Ledger
    from fairtune.study.place import Place
    from fairtune.study.plan import Plan
    from fairtune.study.worker import Exit, Limits, StopFlag
    from fairtune.training.session import Session


def take_part(
    ledger: Ledger,
    plan: Plan,
    session: Session,
    place: Place,
    stop: StopFlag,
    limits: Limits,
    log: list[str] | None,
) -> Exit:
    """Work on a study, showing what is done and telling the sinks of `--log`.

    Raises:
        StudyError: Another worker works on a storage that takes one.
    """
    from fairtune.cli.live import Progress, both
    from fairtune.experiment.sink import Sinks
    from fairtune.study.search import run_study
    from fairtune.study.told import ToSinks

    study = plan.study
    sinks = Sinks.of(log or (), place.out, study.name)
    progress = Progress(study.judge.objectives, study.budget.trials)
    told = ToSinks(sinks, study.name, [str(o) for o in study.judge.objectives])
    with ledger.alone(), progress.shown(), sinks:
        progress.goes_on(ledger.rows("search"))
        notify = both(progress, told)
        return run_study(ledger, plan, session, place, stop, notify=notify, limits=limits)


def leave(left: Exit, stop: StopFlag, then: str, *, ordered: int = INTERRUPTED) -> None:
    """End the command of a worker that was stopped; return when its work is done.

    Ctrl-C is exit code 130. A scheduler that has to start the worker again is told so by 75.

    Args:
        left: Why the worker left.
        stop: What it was told.
        then: What goes on, and how.
        ordered: Exit code after `fairtune stop`.

    Raises:
        StudyError: Its runs failed one after another.
        typer.Exit: It was told to leave.
    """
    from fairtune.errors import StudyError
    from fairtune.study.orders import STOPPED_BY
    from fairtune.study.worker import FAILING, Exit

    if left is not Exit.STOPPED:
        return
    reason = stop.reason() or ""
    if reason.endswith(FAILING):
        raise StudyError(
            "the worker left", found=reason, todo="mend that and give the command again"
        )
    if reason == STOPPED_BY:
        print(f"{STOPPED_BY}; {then}")
        raise typer.Exit(ordered)
    print(f"stopped ({reason}); {then}")
    raise typer.Exit(INTERRUPTED if reason == "SIGINT" else REQUEUE)
