"""Write the tables of docs/methods.md: `python tests/adaptation/methods_page.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from fairtune.adaptation.methods import METHODS
from fairtune.config import Choice, Float, Int
from fairtune.config.registry import declared_dimensions

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods.md"
START, END = "<!-- {}: written by tests/adaptation/methods_page.py -->", "<!-- end of {} -->"


def text() -> str:
    """Return the page with its tables as the registry has them now."""
    page = PAGE.read_text(encoding="utf-8")
    for name, rows in (("methods", methods()), ("fields", fields())):
        start, end = START.format(name), END.format(name)
        before, _, rest = page.partition(start)
        _, _, after = rest.partition(end)
        page = before + "\n".join([start, *rows, end]) + after
    return page


def methods() -> Iterator[str]:
    """Yield the table of methods."""
    yield "| method | formula | layers | merges | starts unchanged | paper |"
    yield "|---|---|---|---|---|---|"
    for name in METHODS:
        cls: Any = METHODS.get(name)
        marks = ("yes" if on else "no" for on in (cls.merges, cls.starts_unchanged))
        yield f"| `{name}` | {cls.formula} | {cls.layers} | {' | '.join(marks)} | {cls.paper} |"


def fields() -> Iterator[str]:
    """Yield the table of fields."""
    yield "| field | default | bounds | declared search range |"
    yield "|---|---|---|---|"
    for name in METHODS:
        cls = METHODS.get(name)
        ranges = declared_dimensions(cls)
        for field, info in cls.model_fields.items():
            row = [f"`{name}.{field}`", f"`{info.default}`", _bounds(info), _range(ranges[field])]
            yield f"| {' | '.join(row)} |"


def _bounds(info: Any) -> str:
    if get_origin(info.annotation) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(info.annotation))
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(item, key):g}"
        for item in info.metadata
        for key, sign in signs.items()
        if getattr(item, key, None) is not None
    ]
    return f"{info.annotation.__name__} {', '.join(found)}"


def _range(dimension: Choice | Float | Int) -> str:
    if isinstance(dimension, Choice):
        return ", ".join(f"`{option}`" for option in dimension.options)
    scale = ", log scale" if dimension.log else ""
    return f"{dimension.low:g} to {dimension.high:g}{scale}"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
    sys.exit(0)
