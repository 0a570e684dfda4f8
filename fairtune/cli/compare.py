"""`fairtune compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fairtune.cli.options import Out, RunsAt, Storage


def compare(
    studies: Annotated[list[str], typer.Argument(help="Names of finetuned studies.")],
    metric: Annotated[
        str, typer.Option("--metric", help="What is compared: an objective without its attribute.")
    ] = "worst_auc",
    figure: Annotated[
        Path | None, typer.Option("--figure", help="SVG file for the critical-difference diagram.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    storage: Storage = None,
    runs: RunsAt = None,
    out: Out = None,
) -> None:
    """Compare picks, baselines and controls of several studies on their tested figures."""
    from fairtune.cli.options import check_target, place_of
    from fairtune.errors import StudyError
    from fairtune.study.comparison import compare_studies
    from fairtune.study.overview import Overview

    if figure is not None:
        check_target(figure, "--figure")
    views = [Overview.load(place_of(name, out, storage, runs)) for name in dict.fromkeys(studies)]
    found = compare_studies(views, metric)
    if json:
        from json import dumps

        print(dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        print(found.text())
    if figure is not None:
        means = found.ranking.means
        if means is None:
            raise StudyError("no critical-difference diagram", found=found.ranking.why)
        from fairtune.report.figures.ranks import svg
        from fairtune.store import write_atomic

        title = f"{metric} on test over {found.ranking.blocks} blocks"
        write_atomic(figure, svg(means, title).encode())
        if not json:
            print(figure)


def register(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(compare)
