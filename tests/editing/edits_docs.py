"""Write the tables of docs/edits.md; run with PYTHONPATH=tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from registry_page import DOCS, fields, fields_of, with_tables

from fairtune.editing import MODES, OBJECTIVES
from fairtune.editing.edits.dne import Dne

PAGE = DOCS / "edits.md"
BY = "tests/editing/edits_docs.py"


def text() -> str:
    """Return the page with its tables as the registries have them now."""
    page = PAGE.read_text(encoding="utf-8")
    tables = {
        "modes": modes(),
        "fields of modes": fields(MODES),
        "objectives": objectives(),
        "fields of objectives": fields(OBJECTIVES),
        "fields of an edit": fields_of("dne", Dne),
    }
    return with_tables(page, BY, tables)


def modes() -> Iterator[str]:
    """Yield the table of ways of searching an edit."""
    yield "| mode | a step | queries of a step, by default | needs | paper |"
    yield "|---|---|---|---|---|"
    for name in MODES:
        member: Any = MODES.parse(name)
        needs = "the gradient" if member.gradient else "answers" if member.queries else "nothing"
        cells = [f"`{name}`", member.formula, str(member.queries), needs, member.paper]
        yield f"| {' | '.join(cells)} |"


def objectives() -> Iterator[str]:
    """Yield the table of what an edit may be made to do."""
    yield "| objective | loss of a batch | reads | paper |"
    yield "|---|---|---|---|"
    for name in OBJECTIVES:
        cls: Any = OBJECTIVES.get(name)
        reads = {"the attribute's head": cls.head, "labels": cls.labels, "the task head": cls.task}
        told = ", ".join(what for what, read in reads.items() if read)
        yield f"| `{name}` | {cls.formula} | {told} | {cls.paper} |"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
