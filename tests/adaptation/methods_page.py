"""Write the tables of docs/methods.md; run with PYTHONPATH=tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from registry_page import DOCS, fields, with_tables

from fairtune.adaptation.methods import METHODS

PAGE = DOCS / "methods.md"


def text() -> str:
    """Return the page with its tables as the registry has them now."""
    page = PAGE.read_text(encoding="utf-8")
    tables = {"methods": methods(), "fields": fields(METHODS)}
    return with_tables(page, "tests/adaptation/methods_page.py", tables)


def methods() -> Iterator[str]:
    """Yield the table of methods."""
    yield "| method | formula | layers | merges | starts unchanged | paper |"
    yield "|---|---|---|---|---|---|"
    for name in METHODS:
        cls: Any = METHODS.get(name)
        marks = ("yes" if on else "no" for on in (cls.merges, cls.starts_unchanged))
        yield f"| `{name}` | {cls.formula} | {cls.layers} | {' | '.join(marks)} | {cls.paper} |"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
