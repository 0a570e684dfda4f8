"""Write the tables of docs/mitigations.md; run with PYTHONPATH=tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from registry_page import DOCS, fields, with_tables

from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.distances import DISTANCES

PAGE = DOCS / "mitigations.md"
BY = "tests/mitigation/mitigations_page.py"


def text() -> str:
    """Return the page with its tables as the registries have them now."""
    page = PAGE.read_text(encoding="utf-8")
    tables = {
        "mitigations": mitigations(),
        "fields": fields(MITIGATIONS),
        "distances": distances(),
    }
    return with_tables(page, BY, tables)


def mitigations() -> Iterator[str]:
    """Yield the table of mitigations."""
    yield "| mitigation | formula | takes | with mixed samples | paper |"
    yield "|---|---|---|---|---|"
    for name in MITIGATIONS:
        cls: Any = MITIGATIONS.get(name)
        slot = ", ".join(cls.slots) or ("" if cls.trains else "predictions")
        mixes = "yes" if cls.mixes else "no"
        yield f"| `{name}` | {cls.formula} | {slot} | {mixes} | {cls.paper} |"


def distances() -> Iterator[str]:
    """Yield the table of distances."""
    yield "| distance | formula |"
    yield "|---|---|"
    for name in DISTANCES:
        cls: Any = DISTANCES.get(name)
        bars = cls.formula.replace("|", "\\|")
        yield f"| `{name}` | {bars} |"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
