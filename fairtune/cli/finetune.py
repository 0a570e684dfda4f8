"""`fairtune finetune`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairtune.cli.options import DataRoot, Log, Out, RunsAt, Storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from fairtune.experiment.alone import Alone
    from fairtune.experiment.run import Watcher
    from fairtune.experiment.sink import Sinks
    from fairtune.study.outcome import Outcome
    from fairtune.study.place import Place
    from fairtune.study.worker import StopFlag
    from fairtune.training.session import Session


_BY = "by this study or from this folder"


def finetune(
    study: Annotated[
        str | None, typer.Option("--study", help="Study whose pick is retrained.")
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            help="recipe.json, a mask rule such as attn:9-11,norm:all, or a FairTune .npy.",
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            help="recipe.json or recipe in YAML: run as it is, or with another --mask.",
        ),
    ] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", help="FairTune tuning method of a .npy mask.")
    ] = None,
    edit: Annotated[
        str | None,
        typer.Option(
            "--edit", help="Input edit (.safetensors of `fairtune dne learn`) for all images."
        ),
    ] = None,
    trial: Annotated[
        int | None, typer.Option("--trial", min=1, help="Take this trial of the search.")
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option("--rule", help="Selection rule (default: the study's `select`)."),
    ] = None,
    on: Annotated[
        str, typer.Option("--on", help="Rows to fit: train, or train+val (nothing is chosen).")
    ] = "train",
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Fresh seeds per recipe.")] = 3,
    storage: Storage = None,
    runs: RunsAt = None,
    out: Out = None,
    data_root: DataRoot = None,
    log: Log = None,
) -> None:
    """Retrain the pick and its baselines with fresh seeds, open the test once, print the table.

    Started by torchrun, all its processes share every batch of each run.
    """
    from fairtune.cli.live import stopping
    from fairtune.cli.options import open_session, out_folder, place_of, shared_at, this_command
    from fairtune.errors import ConfigError
    from fairtune.experiment.sink import Sinks, tell_tested
    from fairtune.study.worker import StopFlag

    if on not in ("train", "train+val"):
        raise ConfigError("unknown rows", where="--on", found=on, allowed="train, train+val")
    if study is None and mask is None and recipe is None:
        raise ConfigError(
            "nothing to retrain",
            todo="give --study NAME, --recipe FILE, or --mask with a file or a rule",
        )
    idle = {
        "--recipe": study is not None and recipe is not None,
        "--trial": trial is not None and (study is None or mask is not None),
        "--rule": rule is not None and (study is None or mask is not None or trial is not None),
        "--layout": layout is not None and mask is None,
        "--storage": study is None and storage is not None,
    }
    _refuse_idle(idle)
    from fairtune.training.share import shared

    stop = StopFlag()
    command = this_command()
    sinks = Sinks.of(log or (), out_folder(out), study)
    watch = _logged(_watch(stop), sinks, study)
    session = open_session(data_root)
    with stopping(stop), shared(session, stop.reason) as leads:
        if not leads:
            return
        with sinks:
            if study is not None:
                wanted = {"rule": rule, "trial": trial, "rows": on, "seeds": seeds, "edit": edit}
                place = place_of(study, out, storage, runs)
                outcome = _study(place, mask, layout, wanted, watch, command, session)
                print(_table(outcome))
                tested = {label: set_.runs for label, set_ in outcome.tested.items()}
                tell_tested(sinks, study, tested, outcome.view.judge)
            else:
                options = {"rows": on, "seeds": seeds, "edit": edit}
                where = (out_folder(out), shared_at(runs))
                made = _alone(mask, recipe, layout, options, watch, command, where, session)
                tell_tested(sinks, study, made.made.runs, made.judge)


def _refuse_idle(idle: dict[str, bool]) -> None:
    from fairtune.errors import ConfigError

    for option, found in idle.items():
        if found:
            raise ConfigError(
                "the option does nothing beside the others that were given",
                where=option,
                todo="leave it out, or say by --study, --trial, --mask or --recipe what is run",
            )


def _study(
    place: Place,
    mask: str | None,
    layout: str | None,
    wanted: dict[str, Any],
    watch: Callable[[str, int, int], Watcher],
    command: str,
    session: Session,
) -> Outcome:
    from fairtune.study.final import Wanted, finetune_study
    from fairtune.study.masks import with_mask
    from fairtune.study.overview import Overview

    view = Overview.load(place)
    if mask is not None:
        wanted["recipe"] = with_mask(mask, layout, view)
        if not mask.endswith(".json"):
            print(f"mask {mask}; everything else from the best trial of study {place.name}")
    return finetune_study(view, session, Wanted(**wanted), command=command, watch=watch)


def _alone(
    mask: str | None,
    recipe: Path | None,
    layout: str | None,
    options: dict[str, Any],
    watch: Callable[[str, int, int], Watcher],
    command: str,
    where: tuple[Path, str | None],
    session: Session,
) -> Alone:
    from fairtune.experiment.alone import finetune_alone, test_text
    from fairtune.report.card import Card, write

    out, shared = where
    made = finetune_alone(
        mask,
        session,
        out,
        recipe_file=recipe,
        layout=layout,
        command=command,
        watch=watch,
        shared=shared,
        **options,
    )
    print(test_text(made))
    print(f"model card: {write(Card.of_run(made.deploy, made.judge, made.made.openings))}")
    return made


def _watch(stop: StopFlag) -> Callable[[str, int, int], Watcher]:
    from fairtune.training.observer import Epoch

    class Lines:
        def __init__(self, name: str) -> None:
            self.name = name

        def epoch(self, report: Epoch, values: Any) -> str | None:
            shown = "  ".join(f"{k} {v:.3f}" for k, v in values.items())
            rate = report.images / max(report.seconds, 1e-9)
            told = f"epoch {report.number}/{report.of}  {rate:.0f} images/s"
            print(f"{self.name}: {told if report.images else 'scored'}  {shown}", file=sys.stderr)
            return None

        def poll(self) -> str | None:
            return stop.reason()

    return lambda label, number, of: Lines(f"final {label} seed {number}/{of}")


def _logged(
    watch: Callable[[str, int, int], Watcher], sinks: Sinks, study: str | None
) -> Callable[[str, int, int], Watcher]:
    from fairtune.experiment.sink import Logged

    return lambda label, number, of: Logged(watch(label, number, of), sinks, study, label, number)


def _card(outcome: Outcome) -> Path:
    from fairtune.report.card import Card, write

    return write(Card.of_outcome(outcome))


def _table(outcome: Outcome) -> str:
    """Return the test table and the verdict as text."""
    from fairtune.experiment.text_facts import words_of
    from fairtune.study.final import test_table

    view, first = outcome.view, outcome.tested[outcome.pick].runs[0]
    lines = [test_table(outcome), *words_of(first)]
    found = outcome.verdict
    lines.append(f"verdict: {found.answer} ({found.why})")
    if outcome.attribution is not None:
        lines.append(f"control: {outcome.attribution}")
    lines.append(f"the test split has been opened {outcome.openings} time(s) {_BY}")
    deployed = outcome.tested[outcome.pick].deploy
    lines.append(f"checkpoint: {view.runs.folder(deployed)}")
    lines.append(f"model card: {_card(outcome)}")
    lines.append(f"next: fairtune report {view.place.name}")
    return "\n".join(lines)


def register(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(finetune)
