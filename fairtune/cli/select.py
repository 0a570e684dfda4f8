"""`fairtune select`."""

from __future__ import annotations

from typing import Annotated

import typer

from fairtune.cli.options import Out, RunsAt, Storage


def select(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    rule: Annotated[
        str | None,
        typer.Option(
            "--rule",
            help="best, minimax, dto, es, constraint, 1se or knee (default: the study's own).",
        ),
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option("--objective", help="Objective instead of the study's; may be given again."),
    ] = None,
    attribute: Annotated[
        str | None,
        typer.Option("--attribute", help="Read every objective over groups at this attribute."),
    ] = None,
    epoch: Annotated[
        str | None, typer.Option("--epoch", help="Epoch that is read: last, or e.g. best:auc.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    storage: Storage = None,
    runs: RunsAt = None,
    out: Out = None,
) -> None:
    """Pick among the confirmed recipes by another rule, objective or epoch; trains nothing."""
    from fairtune.cli.options import place_of
    from fairtune.study.contest import Reading
    from fairtune.study.overview import Overview
    from fairtune.study.select import select as select_by

    view = Overview.load(place_of(study, out, storage, runs))
    reading = Reading(tuple(objective or ()), attribute, epoch)
    found = select_by(view, view.candidates(), rule or str(view.settings["select"]), reading)
    if json:
        from json import dumps

        print(dumps(found.to_json(), indent=1, allow_nan=False))
        return
    print(found.text())


def register(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(select)
