"""`fairtune data`: list data sets, show them, check them, decode them once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairtune.cli.data_texts import print_prompts, print_texts
from fairtune.cli.models import Format, print_json, print_table, table_of

if TYPE_CHECKING:
    import pandas as pd

    from fairtune.data import Table
    from fairtune.data.checks import Report
    from fairtune.data.pack import Progress

Dataset = Annotated[str, typer.Argument(help="A data set's name, or the path of its YAML file.")]
DataRoot = Annotated[
    list[Path] | None,
    typer.Option(
        "--data-root",
        help="Folder to search before FAIRTUNE_DATA and what comes with fairtune; repeatable.",
    ),
]
Target = Annotated[str | None, typer.Option(help="Label rule; the first one when left out.")]
Attributes = Annotated[
    list[str] | None, typer.Option("--attribute", help="Attribute; all when left out; repeatable.")
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", help="Rows to use, COLUMN=VALUE or COLUMN=[A, B]; repeatable."),
]
Out = Annotated[Format, typer.Option("--format", help="How to print.")]
_SHOWN_PAIRS = 20


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    data = typer.Typer(
        help="List data sets, show and check them, decode their images once.",
        no_args_is_help=True,
    )
    data.command("list")(list_datasets)
    data.command("show")(show)
    data.command("check")(check)
    data.command("pack")(pack)
    app.add_typer(data, name="data")


def list_datasets(data_root: DataRoot = None, format_: Out = Format.TABLE) -> None:
    """List the data sets that fairtune knows, and where their files were found."""
    from fairtune.config import shipped
    from fairtune.data import data_roots, load_spec
    from fairtune.data.locate import find
    from fairtune.errors import DataError

    rows = []
    for name in shipped.names("datasets"):
        spec = load_spec(name)
        try:
            folder = str(find(spec, data_roots(data_root or ())).folder)
        except DataError:
            folder = ""
        facts = {"name": name, "title": spec.title, "licence": spec.licence}
        rows.append({**facts, "found": folder or None})
    if format_ is Format.JSON:
        print_json(rows)
        return
    table = table_of("name", "title", "licence", "found in")
    for row in rows:
        _add(table, *(str(value or "not found") for value in row.values()))
    print_table(table)


def show(
    dataset: Dataset,
    target: Target = None,
    attribute: Attributes = None,
    where: Where = None,
    data_root: DataRoot = None,
    format_: Out = Format.TABLE,
) -> None:
    """Show columns, classes, and how many rows each group has in each split."""
    from fairtune.data.checks import describe

    table = _table(dataset, target, attribute, where, data_root)
    cells = describe(table)
    if format_ is Format.JSON:
        print_json(_facts(table) | {"cells": _records(cells), "drawn": _drawn(table)})
        return
    grid = table_of("", "")
    for name, value in _facts(table).items():
        _add(grid, name, _listed(value))
    print_table(grid)
    print()
    _print_drawn(table)
    _print_cells(cells)


def check(
    dataset: Dataset,
    target: Annotated[
        list[str] | None, typer.Option(help="Label rule; all when left out; repeatable.")
    ] = None,
    attribute: Attributes = None,
    where: Where = None,
    trials: Annotated[int, typer.Option(min=1, help="Recipes that a search would compare.")] = 100,
    images: Annotated[
        bool, typer.Option(help="Decode all images and look for near-duplicates across splits.")
    ] = True,
    data_root: DataRoot = None,
    format_: Out = Format.TABLE,
) -> None:
    """Check metadata, split and images, and say what the validation split can tell.

    All faults are shown at once, with file and line. Exit code 2 when there is one.
    """
    from fairtune.config import settings
    from fairtune.data import checks, data_roots, load_spec

    env = settings()
    report = checks.check(
        load_spec(dataset),
        targets=target or (),
        attributes=attribute or (),
        roots=data_roots(data_root or ()),
        where=where_of(where),
        cache=env.cache,
        images=images,
        cap_gib=env.cache_gib,
        trials=trials,
        progress=_progress(),
    )
    if format_ is Format.JSON:
        print_json(_report(report))
        return
    _print_drawn(next(iter(report.targets.values())).table)
    for name, found in report.targets.items():
        print(f"target {name} ({found.table.task}: {', '.join(found.table.classes)})")
        _print_cells(found.cells)
        print()
        _print_outlooks(found.outlooks)
        print_prompts(found.prompts)
    print_texts(report.texts)
    _print_duplicates(report.duplicates)


def pack(
    dataset: Dataset,
    image_size: Annotated[int, typer.Option(min=1, help="Height and width in pixels.")],
    channels: Annotated[int, typer.Option(help="3, or 1 for grey images.")] = 3,
    target: Target = None,
    where: Where = None,
    data_root: DataRoot = None,
) -> None:
    """Decode the images of a data set once, into the cache that all runs share."""
    from fairtune.config import settings
    from fairtune.data import open_pack

    env = settings()
    table = _table(dataset, target, [], where, data_root)
    made = open_pack(
        table,
        image_size=image_size,
        channels=channels,
        cache=env.cache,
        cap_gib=env.cache_gib,
        progress=_progress(),
    )
    print(f"{len(made):,} images of {image_size} x {image_size} x {channels}")
    print(made.folder)


def _table(
    dataset: str,
    target: str | None,
    attributes: list[str] | None,
    where: list[str] | None,
    roots: list[Path] | None,
) -> Table:
    from fairtune.config import settings
    from fairtune.data import data_roots, load_spec, load_table

    spec = load_spec(dataset)
    return load_table(
        spec,
        target=target or next(iter(spec.targets)),
        attributes=list(spec.attributes) if attributes is None else attributes,
        roots=data_roots(roots or ()),
        where=where_of(where),
        cache=settings().cache,
    )


def where_of(words: list[str] | None) -> dict[str, Any]:
    """Read `COLUMN=VALUE` words; a column name is taken whole, dots and all."""
    from fairtune.config import yaml12
    from fairtune.errors import ConfigError

    out: dict[str, Any] = {}
    for word in words or []:
        column, sep, text = word.partition("=")
        if not sep or not column.strip():
            raise ConfigError(
                "a condition is written COLUMN=VALUE",
                where="--where",
                found=word,
                allowed="e.g. source=ham10000 or 'dx=[mel, nv]'",
            )
        out[column.strip()] = yaml12.loads(text, f"--where {column}").data
    return out


def _facts(table: Table) -> dict[str, Any]:
    spec = table.spec
    return {
        "name": spec.name,
        "title": spec.title,
        "licence": spec.licence,
        "link": spec.link,
        "found in": str(table.folder),
        "rows": len(table),
        "left out": dict(table.dropped),
        "targets": {name: list(spec.targets[name].class_names(name)) for name in spec.targets},
        "shown target": table.target,
        "attributes": {name: list(rule.names) for name, rule in spec.attributes.items()},
        "columns": list(table.columns),
        "split hash": table.split_hash,
    }


def _report(report: Report) -> dict[str, Any]:
    from dataclasses import asdict

    pairs = report.duplicates
    table = next(iter(report.targets.values())).table
    return {
        "drawn": _drawn(table),
        "targets": {
            name: {
                "cells": _records(found.cells),
                "outlooks": {
                    attribute: asdict(o) | {"sentence": o.sentence}
                    for attribute, o in found.outlooks.items()
                },
                "prompts": asdict(found.prompts),
            }
            for name, found in report.targets.items()
        },
        "texts": None if report.texts is None else asdict(report.texts),
        "duplicates": None if pairs is None else _records(pairs),
    }


def _drawn(table: Table) -> list[dict[str, Any]]:
    from dataclasses import asdict

    return [asdict(cell) for cell in table.cells]


def _print_drawn(table: Table) -> None:
    """Print what the spec has drawn of each group with each class; nothing without a rule."""
    from fairtune.data.subsample import agreeing

    rule = table.spec.subsample
    if rule is None:
        return
    grid = table_of("split", rule.attribute, rule.target, "agree", "drawn>", "of>")
    for cell in table.cells:
        word = "yes" if cell.agrees else "no"
        _add(grid, cell.split, cell.group, cell.label, word, f"{cell.rows:,}", f"{cell.of:,}")
    print_table(grid)
    for split, (agree, rows) in agreeing(table.cells).items():
        print(
            f"{split}: {rows:,} rows drawn; {rule.attribute} and class agree in {agree / rows:.3f}"
        )
    print()


def _print_cells(cells: pd.DataFrame) -> None:
    rates = [name for name in cells.columns if name.startswith("rate ")]
    head = ["attribute", "group", "split", "n>", "patients>", "effective>", "share>"]
    grid = table_of(*head, *(f"{name}>" for name in rates))
    for row in cells.to_dict("records"):
        _add(
            grid,
            *(str(row[name]) for name in ("attribute", "group", "split")),
            *(f"{row[name]:,}" for name in ("n", "patients")),
            f"{row['effective']:.0f}",
            *(_number(row[name], 2) for name in ("share", *rates)),
        )
    print_table(grid)


def _print_outlooks(outlooks: Any) -> None:
    from fairtune.evaluation.power import as_rows

    grid = table_of(
        "attribute",
        "group in val",
        "n>",
        "patients>",
        "effective>",
        "positives>",
        "negatives>",
        "SE of AUC>",
        "counts",
    )
    for row in as_rows(outlooks):
        _add(
            grid,
            str(row["attribute"]),
            str(row["group"]),
            f"{row['n']:,}",
            f"{row['patients']:,}",
            f"{row['effective']:.0f}",
            f"{row['positives']:,}",
            f"{row['negatives']:,}",
            _number(row["se"], 3),
            "yes" if row["eligible"] else "too small",
        )
    print_table(grid)
    for found in outlooks.values():
        print(found.sentence)
    print()


def _print_duplicates(pairs: pd.DataFrame | None) -> None:
    if pairs is None:
        return
    if pairs.empty:
        print("no near-duplicate images across splits")
        return
    print(f"{len(pairs):,} pairs of near-duplicate images in different splits")
    grid = table_of("image", "split", "image", "split", "bits apart>", "correlation>")
    for row in pairs.head(_SHOWN_PAIRS).to_dict("records"):
        _add(
            grid,
            row["a"],
            row["split_a"],
            row["b"],
            row["split_b"],
            str(row["distance"]),
            f"{row['correlation']:.3f}",
        )
    print_table(grid)
    if len(pairs) > _SHOWN_PAIRS:
        print(f"and {len(pairs) - _SHOWN_PAIRS:,} more; --format json shows all")


def _progress() -> Progress | None:
    """Return a callback that draws a bar on a terminal's stderr, or None without one."""
    import sys

    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        if done % 50 == 0 or done == total:
            print(f"\rdecoding images: {done:,} of {total:,}", end=end, file=sys.stderr)

    return show


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as JSON values; what is not a number is null."""
    return [
        {str(name): None if value != value else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def _add(grid: Any, *cells: str) -> None:
    from rich.markup import escape

    # Names come from files: a bracket in them is text, not a colour.
    grid.add_row(*map(escape, cells))


def _listed(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{k}: {_listed(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _number(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, float) and value == value else "-"
