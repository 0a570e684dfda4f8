"""The section of docs/measured.md from the file of edits.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evidence_page import source, table

TITLE = "Searches of an edit"


def searches(found: Mapping[str, Any]) -> list[str]:
    """Return the section of `edits.json`."""
    rows: Sequence[Mapping[str, Any]] = found["rows"]
    against = _name(found["against"])
    said = ", ".join(f"{times:.1f} ({name})" for name, times in found["ratios"].items())
    lines = [
        f"## {TITLE}",
        "",
        f"An affine model of {found['pixels']:,} pixels whose gradient is known, batches of "
        f"{found['batch']}, {found['budget']:,} queries for every mode at its defaults or with "
        f"what is named, means of {found['seeds']} seeds (`tests/bench/edits.py`). The head tells "
        f"the group of {found['accuracy_before']:.1%} of the rows before. A head that is refitted "
        f"every {found['refit_every']} queries takes the shift of the logits back each time, as "
        "a universal edit of an affine model hides nothing. The cosine is that of the edit with "
        "the true gradient; by chance it is "
        f"{0.8 / found['pixels'] ** 0.5:.3f}. With the queries of `{against}`, "
        f"`{found['recommended']}` has its cosine times {said}.",
        "",
        *source(found),
        f"- machine: {found['machine']['cpu']}",
        "",
    ]
    for objective in dict.fromkeys(row["objective"] for row in rows):
        body = [_row(row) for row in rows if row["objective"] == objective]
        lines += [f"### {objective}", "", *table(HEADS, body), ""]
    return lines


def brief(found: Mapping[str, Any]) -> list[str]:
    """Return the cosine of every mode, for its page."""
    rows: Sequence[Mapping[str, Any]] = found["rows"]
    objectives = list(dict.fromkeys(row["objective"] for row in rows))
    cosines = {(_name(row), row["objective"]): row["cos"] for row in rows}
    heads = ["mode, at its defaults or with", *objectives]
    body = [
        [f"`{name}`", *(f"{cosines[name, objective]:.3f}" for objective in objectives)]
        for name in dict.fromkeys(map(_name, rows))
    ]
    return table(heads, body)


HEADS = (
    "mode", "cosine (of each seed)", "RMS, 1/255", "logits moved by", "head is right", "queries",
    "seconds",
)  # fmt: skip


def _row(row: Mapping[str, Any]) -> list[str]:
    each = ", ".join(f"{cosine:.3f}" for cosine in row["cosines"])
    return [
        f"`{_name(row)}`",
        f"{row['cos']:.3f} ({each})",
        f"{row['rms']:.1f}",
        f"{row['moved']:.2f}",
        f"{row['accuracy']:.1%}",
        f"{row['queries']:,.0f}",
        f"{row['seconds']:.1f}",
    ]


def _name(row: Mapping[str, Any]) -> str:
    changed = ", ".join(f"{key}: {value}" for key, value in row["changed"].items())
    return f"{row['mode']}, {changed}" if changed else str(row["mode"])
