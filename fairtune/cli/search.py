"""`fairtune search`."""

from __future__ import annotations

from typing import Annotated

import typer

from fairtune.cli.options import DataRoot, Log, Out, RunsAt, Storage, Words


def search(
    study: Annotated[str, typer.Argument(help="Study file, or the name of a shipped study.")],
    words: Words = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="Trials in all (default: the study's)."),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            min=1,
            help="Folds, each a run of a trial (default: the study's).",
        ),
    ] = None,
    ending: Annotated[
        str | None,
        typer.Option(
            "--stop",
            metavar="auto|none",
            help="auto: end the search once nothing rises any more (default: the study's).",
        ),
    ] = None,
    together: Annotated[
        int,
        typer.Option("--together", min=1, help="Runs made at once in this process, sharing data."),
    ] = 1,
    name: Annotated[str | None, typer.Option("--name", help="Name of the study.")] = None,
    storage: Storage = None,
    runs: RunsAt = None,
    out: Out = None,
    data_root: DataRoot = None,
    log: Log = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what can be told from this data, and stop."),
    ] = False,
) -> None:
    """Search recipes for validation fairness: baselines, search, confirm. Resumes by name."""
    from fairtune.cli.live import Progress, both, stopping
    from fairtune.cli.options import make_folder, open_session, place_of
    from fairtune.errors import StudyError
    from fairtune.study.schema import load_study

    given = list(words or ())
    if trials is not None:
        given.append(f"budget.trials={trials}")
    if folds is not None:
        given.append(f"validation.folds={folds}")
    if ending is not None:
        given.append(f"budget.stop={ending}")
    file = load_study(study, given, name)
    place = place_of(file.name, out, storage, runs)

    from fairtune.experiment.sink import Sinks
    from fairtune.study.bill import bill
    from fairtune.study.search import (
        check_objectives,
        make_plan,
        open_study,
        pinned_base,
        run_study,
    )
    from fairtune.study.told import ToSinks
    from fairtune.study.worker import Exit, Limits, StopFlag

    sinks = Sinks.of(log or (), place.out, file.name)
    session = open_session(data_root)
    plan = make_plan(file, session, pinned_base(place))
    for note in check_objectives(plan, session):
        print(note)
    if dry_run:
        from fairtune.study.dry import estimate

        print(estimate(plan, session))
        return
    progress = Progress(file.judge.objectives, file.budget.trials)
    stop = StopFlag()
    make_folder(place.folder, "--out")
    told = ToSinks(sinks, file.name, [str(o) for o in file.judge.objectives])
    with open_study(place, plan, create=True) as ledger, stopping(stop), progress.shown(), sinks:
        print(f"study {file.name}: {ledger.url}")
        print(bill(plan))
        progress.goes_on(ledger.rows("search"))
        limits = Limits(together=together)
        notify = both(progress, told)
        left = run_study(ledger, plan, session, place, stop, notify=notify, limits=limits)
    if left is Exit.STOPPED and stop.reason() not in ("SIGINT", "SIGTERM"):
        raise StudyError(
            "the worker left", found=stop.reason(), todo="mend that and give the command again"
        )
    if left is Exit.STOPPED:
        print(f"stopped ({stop.reason()}); the same command goes on from here")
        raise typer.Exit(130)

    from fairtune.study.status import summary

    print(summary(place))


def register(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(search)
