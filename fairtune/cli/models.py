"""`fairtune models`: list them, show their units, fetch their weights."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fairtune.models import Units

_GROUP = "models"


class Format(StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    models = group(app)
    models.command("list")(list_models)
    models.command("units")(units)
    models.command("pull")(pull)


def group(app: typer.Typer) -> typer.Typer:
    """Return the group `models` of `app`, made on the first call."""
    for held in app.registered_groups:
        if held.name == _GROUP and held.typer_instance is not None:
            return held.typer_instance
    made = typer.Typer(
        help="List models, show the units a mask can switch, fetch weights.",
        no_args_is_help=True,
    )
    app.add_typer(made, name=_GROUP)
    return made


def list_models(
    format_: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
) -> None:
    """List the models that come with fairtune, with their size and the state of their weights."""
    from fairtune.config import settings
    from fairtune.models import load, names, weights
    from fairtune.models.backbone import describe

    rows: list[dict[str, Any]] = []
    for name in names():
        spec = load(name)
        held = weights.cached(spec, settings())
        rows.append(
            {
                "name": name,
                "title": spec.title,
                "parameters": describe(spec).total,
                "image_size": spec.image_size.default,
                "licence": spec.licence,
                "weights": "cached" if held else ("not cached" if spec.weights else "none"),
                "texts": None if spec.tokenizer is None else f"{spec.tokenizer.limit} tokens",
            }
        )
    if format_ is Format.JSON:
        print_json(rows)
        return
    table = table_of("name", "title", "parameters>", "image>", "licence", "weights", "texts")
    for row in rows:
        table.add_row(*("-" if value is None else _text(value) for value in row.values()))
    print_table(table)


def units(
    name: Annotated[str, typer.Argument(help="A model's name, or the path of its YAML file.")],
    type_: Annotated[
        str | None,
        typer.Option("--type", help="Show this unit type block by block, e.g. attn or norm+mlp."),
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            help="Show what a study would search with this mask space: a name, or its YAML, e.g. "
            "'cutoff: {types: [norm, attn]}'."
        ),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels; the model's default if not given.")
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TABLE,
) -> None:
    """Show the pieces of a model that a mask can switch, with their share of its parameters."""
    from fairtune.errors import ConfigError
    from fairtune.models import load
    from fairtune.models.backbone import describe

    if space is not None and type_ is not None:
        raise ConfigError("--space and --type cannot be shown together", todo="give one of them")
    found = describe(load(name), image_size)
    if space is not None:
        _space(name, found, space, format_)
        return
    rows = _types(found) if type_ is None else _depths(found, type_)
    if format_ is Format.JSON:
        print_json({"model": name, "hash": found.hash, "total": found.total, "rows": rows})
        return
    if not found.names:
        print(f"{name} is an endpoint: it has nothing that a mask could switch")
        return
    first = "unit type" if type_ is None else f"{type_}, block"
    last = "in blocks" if type_ is None else "names"
    table = table_of(first, "units>", "parameters>", "share>", last)
    for row in rows:
        values = list(row.values())
        table.add_row(*(_text(v) for v in values[:3]), f"{values[3]:.2%}", _text(values[4]))
    print_table(table)


def pull(
    name: Annotated[str, typer.Argument(help="A model's name, or the path of its YAML file.")],
    file: Annotated[
        Path | None,
        typer.Option("--from", help="Take the weights from this file instead of a download."),
    ] = None,
) -> None:
    """Put a model's weights and tokenizer into the cache, where every later run finds them."""
    from fairtune.config import settings
    from fairtune.models import load, tokenizer, weights

    spec = load(name)
    held = weights.pull(spec, settings(), file)
    print(f"{name}: {held.source}")
    print(f"tensors {held.sha}")
    print(f"file    {held.path}")
    if spec.tokenizer is not None:
        reads = tokenizer.load(spec, settings())
        print(f"texts   {reads.rule.limit} tokens, tokenizer {reads.sha}")


def _space(name: str, units: Units, text: str, format_: Format) -> None:
    from fairtune.adaptation.outline import outline

    shown = outline(text, units)
    if format_ is Format.JSON:
        print_json({"model": name, "hash": units.hash, "total": units.total, **shown.to_json()})
        return
    print(shown)
    table = table_of("parameter", "range")
    for parameter, range_ in shown.ranges.items():
        table.add_row(parameter, range_)
    print_table(table)


def _types(units: Units) -> list[dict[str, Any]]:
    rows = []
    for name, by_depth in units.types.items():
        inside = [unit for of_depth in by_depth for unit in of_depth]
        at = [depth for depth, of_depth in enumerate(by_depth) if of_depth]
        rows.append(_row("type", name, units, inside) | {"blocks": _ranges(at)})
    for name in units.singles:
        rows.append(_row("type", name, units, [name]) | {"blocks": "-"})
    return rows


def _depths(units: Units, type_: str) -> list[dict[str, Any]]:
    return [
        _row("block", depth, units, inside) | {"names": list(inside)}
        for depth, inside in enumerate(units.by_depth(type_)[: units.deep(type_)])
    ]


def _row(key: str, value: object, units: Units, inside: Any) -> dict[str, Any]:
    size = units.size(inside)
    return {key: value, "units": len(inside), "parameters": size, "share": size / units.total}


def _ranges(depths: list[int]) -> str:
    if depths == list(range(depths[0], depths[-1] + 1)):
        return f"{depths[0]}-{depths[-1]}"
    return ", ".join(str(depth) for depth in depths)


def _text(value: object) -> str:
    if isinstance(value, list):
        return "\n".join(str(item) for item in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def table_of(*columns: str) -> Any:
    """Return an empty rich table; a column name that ends in `>` is set flush right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        right = column.endswith(">")
        table.add_column(
            column.rstrip(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right or i == 0,
        )
    return table


def print_table(table: Any) -> None:
    """Print a rich table."""
    wide_console().print(table)


def wide_console() -> Any:
    """Return a console as wide as the terminal; wide enough for every table in a pipe or file."""
    from rich.console import Console

    console = Console()
    # A pipe has no width; the narrow default would fold words and cut numbers.
    return console if console.is_terminal else Console(width=200)


def print_json(value: object) -> None:
    """Print `value` as JSON."""
    import json

    print(json.dumps(value, indent=1))
