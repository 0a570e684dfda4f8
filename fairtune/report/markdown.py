"""The report as Markdown: the same words and tables, figures as theirs."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fairtune.report.grid import Grid, plain_grid
from fairtune.report.summary import Summary
from fairtune.report.words import sentence

if TYPE_CHECKING:
    from fairtune.report.sections import Part, Section


def markdown(summary: Summary, parts: Sequence[Section]) -> str:
    """Return the report in GitHub's Markdown.

    Args:
        summary: What is said first.
        parts: See `sections.sections`.
    """
    lines = [f"# {plain(summary.study)}", "", *verdict(summary, "##")]
    for section in parts:
        lines += [f"## {plain(section.title)}", ""]
        for part in section.parts:
            lines += _part(part)
    return "\n".join(lines).rstrip() + "\n"


def verdict(summary: Summary, level: str) -> list[str]:
    """Return the verdict, its facts and the warnings as lines, under headings of `level`."""
    lines = [
        f"{level} Verdict: {summary.answer}",
        "",
        f"**{plain(summary.headline)}**",
        "",
        plain(sentence(summary.why)),
        "",
        f"- pick (rule “{plain(summary.rule)}”): {plain(summary.pick or 'none')}",
        f"- test openings: {summary.openings or 'none: closed'}",
    ]
    if summary.patients_needed:
        lines.append(f"- patients needed to settle it: about {summary.patients_needed:,}")
    if summary.speaks_of:
        lines.append(f"- the figures speak of {summary.speaks_of}")
    if summary.warnings:
        lines += ["", f"{level} Before you rely on this", ""]
        lines += [f"- {plain(warning)}" for warning in summary.warnings]
    return [*lines, ""]


def _part(part: Part) -> list[str]:
    if part.kind in ("text", "note"):
        return [plain(part.text), ""]
    if part.kind == "heading":
        return [f"### {plain(part.text)}", ""]
    if part.figure is not None:
        shown = part.figure
        lines = [f"### {plain(shown.title)}", "", plain(shown.caption), ""]
        if len(shown.data):
            return lines + table(plain_grid(shown.data, shown.title))
        return [*lines, plain(shown.alt), ""]
    head = [f"### {plain(part.text)}", ""] if part.kind == "folded" else []
    return head + [line for grid in part.grids for line in table(grid)]


def table(grid: Grid) -> list[str]:
    """Return a table as lines, its caption before and its notes behind it."""
    lines = [f"**{plain(grid.caption)}**", "", _row(grid.columns)]
    lines.append("|" + "|".join(["---"] * len(grid.columns)) + "|")
    lines += [_row([cell.text for cell in row]) for row in grid.rows]
    for note in grid.notes:
        lines += ["", plain(note)]
    return [*lines, ""]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(plain(cell) for cell in cells) + " |"


def plain(text: str) -> str:
    """Return text that Markdown shows as it is: no markup, no HTML, no end of a cell."""
    one_line = html.escape(re.sub(r"\s+", " ", text).strip(), quote=False)
    escaped = re.sub(r"([\\`*|~])", r"\\\1", one_line)
    # Inside a word an underscore is itself; a bracket makes a link only before another.
    escaped = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)
    return re.sub(r"^(?=[#+-]+ )", r"\\", escaped.replace("](", "]\\(").replace("][", "]\\["))
