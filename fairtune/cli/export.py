"""`fairtune export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fairtune.cli.options import Out, RunsAt, Storage


def export(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    format_: Annotated[
        str, typer.Option("--format", help="csv, parquet or json (rows as a list).")
    ] = "csv",
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Folder of the files (default: export in the study's folder)."),
    ] = None,
    tables: Annotated[
        str, typer.Option("--tables", help="Any of trials, groups, epochs.")
    ] = "trials,groups,epochs",
    out: Out = None,
    storage: Storage = None,
    runs: RunsAt = None,
) -> None:
    """Write a study as tidy tables: trials, groups (trial x metric x group), epochs."""
    from fairtune.cli.options import place_of
    from fairtune.report.export import export as write
    from fairtune.study.overview import Overview

    place = place_of(study, out, storage, runs)
    names = [name.strip() for name in tables.split(",") if name.strip()]
    made = write(Overview.load(place), to or place.folder / "export", names, format_)
    for path, rows in zip(made.files, made.rows):
        print(f"{path}  {rows} rows")
    if made.missing:
        print(
            f"{made.missing} finished run(s) have no folder under {place.out}: "
            "they are in trials only",
            file=sys.stderr,
        )


def register(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(export)
