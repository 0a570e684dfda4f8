"""`fairtune doctor`: what stands between this machine and a study, and whether one holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairtune.cli.models import Format, print_json, print_table, table_of
from fairtune.cli.options import Out, RunsAt, Storage


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("doctor")(doctor)


def doctor(
    format_: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
    study: Annotated[
        str | None,
        typer.Option("--study", help="Check what is stored about this study instead."),
    ] = None,
    out: Out = None,
    storage: Storage = None,
    runs: RunsAt = None,
) -> None:
    """Check versions, device, disk, data and weights; exit code 1 when a study cannot run.

    With --study: whether the rows of a study agree with each other and with its stored runs.
    """
    from dataclasses import asdict, replace

    from fairtune.config import settings
    from fairtune.errors import ConfigError

    if study is not None:
        _study(study, (out, storage, runs), format_)
        return
    for option, given in (("--out", out), ("--storage", storage)):
        if given is not None:
            raise ConfigError(
                "the option says where a study is", where=option, todo="give --study NAME too"
            )

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


def _study(study: str, where: tuple[Path | None, str | None, str | None], format_: Format) -> None:
    from fairtune.cli.options import place_of
    from fairtune.study.audit import audit
    from fairtune.study.overview import Overview
    from fairtune.study.tend import foreign, tended

    place = place_of(study, *where)
    view = Overview.load(place)
    with tended(place) as held:
        others = foreign(held)
    found = audit(view, others)
    if format_ is Format.JSON:
        print_json(found.to_json())
    else:
        for finding in found.findings:
            print(finding)
        running = f", {found.running} under way" if found.running else ""
        count = len(found.findings)
        told = "all of it agrees" if not count else f"{count} finding{'s' * (count > 1)}"
        print(
            f"study {study}: {found.rows} rows{running}; {found.runs} stored runs, "
            f"{found.values} values computed anew: {told}"
        )
    if found.findings:
        raise typer.Exit(1)
