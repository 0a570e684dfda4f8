"""`fairtune report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairtune.cli.options import Out, Storage


def report(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    out: Out = None,
    storage: Storage = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="File to write (default: report.html in the study's folder)."),
    ] = None,
) -> None:
    """Write everything known of a study as one HTML page that needs no network."""
    from fairtune.cli.options import place_of
    from fairtune.errors import ConfigError
    from fairtune.report.render import write
    from fairtune.study.overview import Overview

    if to is not None and to.is_dir():
        raise ConfigError(
            "--to names a folder", where="--to", found=str(to), todo="name a file, e.g. x.html"
        )
    print(write(Overview.load(place_of(study, out, storage)), to))


def register(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(report)
