"""`fairtune search`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fairtune.cli.options import (
    DataRoot,
    Force,
    Launch,
    Log,
    Out,
    PerGpu,
    PerRun,
    RunsAt,
    Storage,
    Together,
    With,
    Words,
    Workers,
)

if TYPE_CHECKING:
    from fairtune.study.place import Place
    from fairtune.study.plan import Plan
    from fairtune.study.worker import StopFlag
    from fairtune.training.session import Session


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
    workers: Workers = None,
    per_gpu: PerGpu = 1,
    processes: PerRun = 1,
    launcher: Launch = None,
    settings: With = None,
    together: Together = 1,
    name: Annotated[str | None, typer.Option("--name", help="Name of the study.")] = None,
    storage: Storage = None,
    runs: RunsAt = None,
    out: Out = None,
    data_root: DataRoot = None,
    log: Log = None,
    force: Force = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what can be told from this data, and stop."),
    ] = False,
) -> None:
    """Search recipes for validation fairness: baselines, search, confirm. Resumes by name.

    With several workers, or a launcher, `fairtune worker` is started for each.
    """
    from fairtune.cli.crew import Asked, launch
    from fairtune.cli.live import stopping
    from fairtune.cli.options import make_folder, open_session, place_of
    from fairtune.study.schema import load_study

    given = list(words or ())
    if trials is not None:
        given.append(f"budget.trials={trials}")
    if folds is not None:
        given.append(f"validation.folds={folds}")
    if ending is not None:
        given.append(f"budget.stop={ending}")
    file = load_study(study, given, name)
    asked = Asked.of(launcher, settings, workers, per_gpu, processes)
    place = place_of(file.name, out, storage, runs)
    if asked is not None:
        place = asked.place(place)

    from fairtune.study.opening import pinned_base
    from fairtune.study.search import check_objectives, make_plan
    from fairtune.study.worker import StopFlag
    from fairtune.training.share import shared

    session, stop = open_session(data_root), StopFlag()
    with stopping(stop), shared(session, stop.reason, together=together) as leads:
        if not leads:
            return
        pinned = pinned_base(place)
        if asked is not None:
            asked.check_precision(file, session, created=pinned is not None)
        plan = make_plan(file, session, pinned)
        for note in check_objectives(plan, session):
            print(note)
        if dry_run:
            from fairtune.study.dry import estimate

            print(estimate(plan, session))
            return
        make_folder(place.folder, "--out")
        if asked is None:
            _alone(plan, session, place, stop, log, together, force)
            return
    options = [f"--together={together}", *(f"--log={sink}" for sink in log or ())]
    options += [f"--data-root={folder.resolve()}" for folder in data_root or ()]
    options += [] if place.shared is None else [f"--runs={place.shared}"]
    launch(asked, plan, session, place, options, force=force)


def _alone(
    plan: Plan,
    session: Session,
    place: Place,
    stop: StopFlag,
    log: list[str] | None,
    together: int,
    force: bool,
) -> None:
    """Work on the study in this process until it is finished or told to stop."""
    from fairtune.cli.work import leave, take_part
    from fairtune.study.bill import bill
    from fairtune.study.code import check_code
    from fairtune.study.opening import open_study, options_of
    from fairtune.study.status import summary
    from fairtune.study.worker import Limits

    options = options_of(plan, leaving=stop.reason)
    with open_study(place, plan, create=True, options=options) as ledger:
        print(f"study {plan.study.name}: {ledger.url}")
        print(bill(plan))
        for line in check_code(ledger, force=force):
            print(line)
        left = take_part(ledger, plan, session, place, stop, Limits(together=together), log)
    leave(left, stop, "the same command goes on from here")
    print(summary(place))


def register(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(search)
