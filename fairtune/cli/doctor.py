"""`fairtune doctor`: what stands between this machine and a study."""

from __future__ import annotations

from typing import Annotated

import typer

from fairtune.cli.models import Format, print_json, print_table, table_of
from fairtune.cli.options import RunsAt


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("doctor")(doctor)


def doctor(
    format_: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
    runs: RunsAt = None,
) -> None:
    """Check versions, device, disk, data and weights; exit code 1 when a study cannot run."""
    from dataclasses import asdict, replace

    from fairtune.config import settings
    from fairtune.models.doctor import examine

    env = settings()
    checks = examine(replace(env, runs=runs or env.runs))
    if format_ is Format.JSON:
        print_json([asdict(check) for check in checks])
    else:
        table = table_of("", "what", "found")
        for check in checks:
            detail = check.detail if check.todo is None else f"{check.detail}\n-> {check.todo}"
            table.add_row(check.state, check.name, detail)
        print_table(table)
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)
