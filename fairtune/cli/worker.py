"""`fairtune worker`."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from fairtune.cli.options import DataRoot, Force, Log, Out, PerRun, RunsAt, Storage, Together


def worker(
    study: Annotated[
        str | None,
        typer.Option("--study", help="Name of the study (default: FAIRTUNE_STUDY)."),
    ] = None,
    runs: Annotated[
        int | None, typer.Option("--max-trials", min=1, help="Leave after so many runs.")
    ] = None,
    time_budget: Annotated[
        str | None,
        typer.Option(
            "--time-budget",
            metavar="3h50m",
            help="Leave after this time; the run under way goes on elsewhere from there.",
        ),
    ] = None,
    idle_exit: Annotated[
        bool,
        typer.Option("--idle-exit", help="Leave once others run all that is left."),
    ] = False,
    processes: PerRun = 1,
    together: Together = 1,
    slot: Annotated[
        int | None,
        typer.Option("--slot", min=0, help="Number among the workers (default: by chance)."),
    ] = None,
    storage: Storage = None,
    shared_runs: RunsAt = None,
    out: Out = None,
    data_root: DataRoot = None,
    log: Log = None,
    force: Force = False,
) -> None:
    """Take part in a study: make runs until none is left, wherever this is started.

    It needs the storage and the name of a study that `fairtune search` has made. Exit code 0: all
    is done; 75: it was told to leave, start it again; 2: something has to be mended.
    """
    from fairtune.config.settings import launched

    if processes > 1 and launched()[0] == 1:
        from fairtune.training.spawned import spawn

        raise typer.Exit(spawn(processes, [sys.executable, "-m", "fairtune", *sys.argv[1:]]))
    from fairtune.cli.live import stopping
    from fairtune.cli.options import make_folder, open_session, place_of
    from fairtune.cli.work import leave, take_part
    from fairtune.config import settings
    from fairtune.config.durations import seconds_of
    from fairtune.errors import ConfigError, Interrupted
    from fairtune.study.code import check_code
    from fairtune.study.opening import join_study, once_there, options_of, stored_study
    from fairtune.study.search import make_plan
    from fairtune.study.worker import Exit, Limits, StopFlag
    from fairtune.training.share import shared

    seconds = None if time_budget is None else seconds_of(time_budget, "--time-budget")
    stop = StopFlag(seconds)
    name = study or settings().study
    if name is None:
        raise ConfigError(
            "which study?", where="--study", todo="give --study NAME, or set FAIRTUNE_STUDY"
        )
    place = place_of(name, out, storage, shared_runs)
    session = open_session(data_root)
    left = Exit.STOPPED  # as it is when it is told to while something is prepared
    with (
        stopping(stop),
        shared(session, stop.reason, together=together) as leads,
        contextlib.suppress(Interrupted),
    ):
        if not leads:
            return
        file, base = once_there(lambda: stored_study(place), stop)
        plan = make_plan(file, session, base)
        make_folder(place.folder, "--out")
        options = options_of(plan, slot, stop.reason)
        with once_there(lambda: join_study(place, plan, options=options), stop) as ledger:
            print(f"worker {ledger.worker} of study {name}: {ledger.url}")
            for line in check_code(ledger, force=force):
                print(line)
            limits = Limits(together=together, runs=runs, waits=not idle_exit)
            left = take_part(ledger, plan, session, place, stop, limits, log)
    # Nobody is to start it again that was stopped by a person.
    leave(left, stop, "its run goes on elsewhere from there", ordered=0)
    print(f"left: {left.value}")


def register(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(worker)
