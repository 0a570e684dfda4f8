"""`fairtune score`: every group figure of a table of predictions, from any model."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from fairtune.evaluation.score import Score


Line = Mapping[Hashable, Any]


class Format(StrEnum):
    """How the result is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


MINIMUM = "n=20,positives=10,negatives=10"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(score)


def score(
    table: Annotated[Path, typer.Argument(help="Predictions: csv, tsv or parquet, also .gz.")],
    label: Annotated[
        list[str], typer.Option(help="Label column (0/1 or class number); repeat for targets.")
    ],
    score: Annotated[
        list[str], typer.Option(help="Score column; repeat for classes or for targets.")
    ],
    attribute: Annotated[
        list[str] | None, typer.Option(help="Column of a sensitive attribute; repeatable.")
    ] = None,
    patient: Annotated[
        str | None, typer.Option(help="Column naming the patient, the unit of resampling.")
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(help="Compute within the strata of this column, then average by size."),
    ] = None,
    cross: Annotated[
        list[str] | None,
        typer.Option(help="A crossing such as age*sex*site; all pairs are always shown."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="A metric, reduction or compound; all when left out; repeatable."),
    ] = None,
    threshold_rule: Annotated[
        str,
        typer.Option(
            help="youden, prevalence, fixed=X, sensitivity=X or specificity=X; cross-fitted on "
            "patient folds of TABLE unless --threshold-from is given."
        ),
    ] = "youden",
    threshold_from: Annotated[
        Path | None,
        typer.Option(help="Validation table to fit the threshold on; same columns."),
    ] = None,
    min_group: Annotated[str, typer.Option(help="What a group must have to count.")] = MINIMUM,
    seed: Annotated[int, typer.Option(help="Seed of folds, bootstrap and permutations.")] = 0,
    format_: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
) -> None:
    """Score predictions of any model by group: values, intervals, noise floors, crossings.

    Notes on threshold, patients and small groups come with it (on stderr for json and csv).
    """
    from fairtune.evaluation.rules import GroupMinimum, ThresholdRule
    from fairtune.evaluation.score import Columns, score_table

    result = score_table(
        table,
        Columns(tuple(label), tuple(score), tuple(attribute or ()), patient, within),
        crossings=cross or (),
        metrics=metric or (),
        rule=ThresholdRule.parse(threshold_rule),
        threshold_from=threshold_from,
        minimum=GroupMinimum.parse(min_group),
        seed=seed,
    )
    if format_ is Format.TABLE:
        _print_tables(result)
        return
    for note in result.notes:
        typer.echo(f"note: {note}", err=True)
    if format_ is Format.JSON:
        import json

        typer.echo(json.dumps(result.records(), indent=1))
    else:
        typer.echo(result.rows.to_csv(index=False), nl=False)


def _print_tables(result: Score) -> None:
    from fairtune.cli.models import wide_console

    console = wide_console()
    targets = list(dict.fromkeys(result.rows["target"]))
    for target in targets:
        rows = result.rows[[t == target for t in result.rows["target"]]]
        title = "" if len(targets) == 1 else f"{target or 'mean over targets'}: "
        if not result.attributes:
            console.print(_grid(f"{title}overall", rows, None))
        for name in result.attributes:
            console.print(_grid(title + name, rows, name))
    for note in result.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _grid(title: str, rows: pd.DataFrame, attribute: str | None) -> Table:
    """Return one table: a line per metric, a column per group, then the reductions."""
    from rich.markup import escape
    from rich.table import Table

    overall = rows[rows["attribute"].isna()]
    mine = rows[rows["attribute"] == attribute] if attribute else rows.iloc[:0]
    groups = list(dict.fromkeys(mine["group"].dropna()))
    grid = Table(title=escape(title), title_justify="left", show_lines=False)
    grid.add_column("metric")
    grid.add_column("overall", justify="right")
    for group in groups:
        n = mine[mine["group"] == group].iloc[0]
        grid.add_column(f"{escape(group)}\nn={n['n']}, pos={n['positives']}", justify="right")
    for name in ("worst", "gap", "floor 95 %", "es") if attribute else ():
        grid.add_column(name, justify="right")
    cells = {(row["metric"], row["group"]): row for row in mine.to_dict("records")}
    for row in overall.to_dict("records"):
        name = str(row["metric"])
        line = [name, _cell(row), *(_cell(cells.get((name, group))) for group in groups)]
        if attribute:
            stem, at, point = name.partition("@")
            gap = cells.get((f"{stem}_gap{at}{point}", None))
            line += [_cell(cells.get((f"worst_{name}", None))), _cell(gap)]
            line += [_floor(gap), _number(cells.get((f"es_{name}", None)), "value")]
        grid.add_row(*map(escape, line))
    for row in mine[mine["group"].isna()].to_dict("records"):
        if str(row["metric"]) in ("eo_diff", "eo_avg", "eopp_diff", "dp_diff"):
            blanks = [""] * (len(groups) + 1)
            grid.add_row(str(row["metric"]), *blanks, "", escape(_cell(row)), _floor(row), "")
    return grid


def _number(row: Line | None, key: str) -> str:
    value = None if row is None else row[key]
    return f"{value:.3f}" if isinstance(value, float) and value == value else "-"


def _floor(row: Line | None) -> str:
    rates = _number(row, "base_rate_gap")
    # Selection rates have no floor where prevalence differs; its gap is what to compare with.
    return _number(row, "floor_95") if rates == "-" else f"base rates {rates}"


def _cell(row: Line | None) -> str:
    text = _number(row, "value")
    if row is None or text == "-" or _number(row, "low") == "-":
        return text
    return f"{text} [{_number(row, 'low')}, {_number(row, 'high')}]"
