"""`fairtune report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairtune.cli.options import Out, RunsAt, Storage


def report(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    out: Out = None,
    storage: Storage = None,
    runs: RunsAt = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="html (one page that needs no network), md, json, csv (figures of the groups), "
            "or card (the model card).",
        ),
    ] = "html",
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            help="File to write (default: report.FORMAT in the study's folder; the card beside "
            "its model).",
        ),
    ] = None,
    watts: Annotated[
        float | None,
        typer.Option(
            "--watts", help="Draw of one device, for the estimate of energy (default: assumed)."
        ),
    ] = None,
) -> None:
    """Write everything known of a study as one file."""
    from fairtune.cli.options import place_of
    from fairtune.errors import ConfigError
    from fairtune.report.write import write
    from fairtune.study.overview import Overview

    if to is not None and to.is_dir():
        raise ConfigError(
            "--to names a folder", where="--to", found=str(to), todo="name a file, e.g. x.html"
        )
    if watts is not None and (form in ("csv", "card") or not watts > 0):
        raise ConfigError(
            "a draw above 0 W, for a report that tells energy",
            where="--watts",
            found=f"{watts:g} with --format {form}",
            allowed="html, md, json",
        )
    print(write(Overview.load(place_of(study, out, storage, runs)), to, form, watts))


def register(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(report)
