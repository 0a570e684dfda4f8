"""Tables of a documentation page that follow from a registry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pydantic

from fairtune.config import Choice, Config, Float, Int, Registry
from fairtune.config.registry import Among, declared_dimensions

DOCS = Path(__file__).resolve().parents[1] / "docs"
_HEAD = ("| field | default | bounds | declared search range |", "|---|---|---|---|")
START, END = "<!-- {}: written by {} -->", "<!-- end of {} -->"


def with_tables(page: str, by: str, tables: Mapping[str, Iterator[str]]) -> str:
    """Return `page` with its tables, each between two marks, as they are now.

    Args:
        page: Markdown.
        by: The program that writes them.
        tables: Lines of each table by its name.
    """
    for name, rows in tables.items():
        start, end = START.format(name, by), END.format(name)
        before, found, rest = page.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the page has no place for the table '{name}'")
        page = before + "\n".join([start, *rows, end]) + after
    return page


def fields(registry: Registry[Any]) -> Iterator[str]:
    """Yield the table of the fields of every member."""
    yield from _HEAD
    for name in registry:
        yield from _rows(name, registry.get(name))


def fields_of(name: str, cls: type[Config]) -> Iterator[str]:
    """Yield the table of the fields of one member."""
    yield from _HEAD
    yield from _rows(name, cls)


def _rows(name: str, cls: type[Config]) -> Iterator[str]:
    ranges = declared_dimensions(cls)
    for field, info in cls.model_fields.items():
        default = info.default
        shown = "none" if default is None else default
        tried = _range(ranges[field]) if field in ranges else _among(info)
        row = [f"`{name}.{field}`", f"`{shown}`", _bounds(info), tried]
        yield f"| {' | '.join(row)} |"


def _bounds(info: Any) -> str:
    if get_origin(info.annotation) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(info.annotation))
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    marks = [m for item in info.metadata for m in _marks(item)]
    found = [
        f"{sign} {getattr(item, key):g}"
        for item in marks
        for key, sign in signs.items()
        if getattr(item, key, None) is not None
    ]
    return f"{_type(info.annotation)} {', '.join(found)}".strip()


def _marks(item: Any) -> list[Any]:
    return list(item.metadata) if isinstance(item, pydantic.fields.FieldInfo) else [item]


def _type(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return "a name"
    return annotation.__name__ if isinstance(annotation, type) else "a name"


def _among(info: Any) -> str:
    among = [item.names for item in info.metadata if isinstance(item, Among)]
    return ", ".join(f"`{name}`" for name in among[0]) if among else ""


def _range(dimension: Choice | Float | Int) -> str:
    if isinstance(dimension, Choice):
        return ", ".join(f"`{option}`" for option in dimension.options)
    scale = ", log scale" if dimension.log else ""
    return f"{dimension.low:g} to {dimension.high:g}{scale}"
