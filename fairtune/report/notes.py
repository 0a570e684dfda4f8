"""What optuna-dashboard shows beside a trial: a short Markdown note."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import pandas as pd

import fairtune
from fairtune.evaluation.scoring import group_table
from fairtune.experiment.stored import StoredRun
from fairtune.report import post
from fairtune.report.export import suppressed
from fairtune.report.scored import REPLICATES
from fairtune.report.trials import fairness_name
from fairtune.report.words import NOTHING, TOO_SMALL, ends, number, prose
from fairtune.study.outcome import _threshold
from fairtune.study.overview import LABEL, Overview
from fairtune.study.rank import DEGENERATE
from fairtune.study.rows import FINAL, Row, edit_of

KEPT = "write below this line: it is kept"
# A link definition without a link: Markdown shows nothing of it.
_MARK = re.compile(rf"^\[//\]: # \(fairtune (?P<mark>\S+): {re.escape(KEPT)}\)$", re.MULTILINE)


def mark_of(row: Row, *, with_run: bool) -> str:
    """Return what tells a note that would read the same from one that has to be written anew."""
    return f"{fairtune.__version__}-{row.state}-{'run' if with_run else 'row'}"


def is_current(old: str, row: Row, *, with_run: bool) -> bool:
    """Tell whether `old` says all that could be said of `row` now."""
    found = _MARK.search(old)
    known = (mark_of(row, with_run=with_run), mark_of(row, with_run=True))
    return found is not None and found["mark"] in known


def merged(old: str, body: str, mark: str) -> str:
    """Return `body` with what a person wrote into `old`: all of it, or what is below the mark."""
    found = _MARK.search(old)
    own = old if found is None else old[found.end() :]
    text = f"{body}\n\n[//]: # (fairtune {mark}: {KEPT})"
    return f"{text}\n\n{own.strip()}\n" if own.strip() else f"{text}\n"


def note(view: Overview, row: Row) -> str:
    """Return the note of a finished row: mask, objective with interval, groups, why it ended.

    Intervals and counts need the run's folder; without it the figures of the row are shown.
    """
    run = view.stored(row) if row.state == "complete" else None
    name = str(row.attrs.get(LABEL) or row.kind)
    mask = str(row.attrs.get("mask", ""))
    edit = edit_of(row.recipe)
    parts = [
        f"**{plain(name)}**"
        + (f" trains `{mask}`" if mask else "")
        + (f" on images with the edit `{edit}`" if edit else "")
    ]
    if run is not None and (row.phase != FINAL or run.has_test):
        parts.append(_figures(view, row, run))
        parts += map(plain, post.needs(run))
    elif row.values is not None:
        names = [str(objective) for objective in view.judge.objectives]
        parts.append(", ".join(f"{plain(n)} {number(v)}" for n, v in zip(names, row.values)))
        parts.append(_groups_of_row(row))
    if row.reason is not None:
        word = {"pruned": "Pruned", "failed": "Failed"}.get(row.state, row.state)
        detail = str(row.attrs.get("detail", "")).strip().splitlines()
        tail = f": {plain(prose(detail[-1]))}" if detail else ""
        parts.append(f"{word}: {plain(prose(row.reason))}{tail}")
    if why := row.attrs.get(DEGENERATE):
        parts.append(f"Counts for little: {plain(str(why))}")
    violated = [name for name, value in row.constraints.items() if value > 0]
    if violated:
        parts.append(f"Violates {', '.join(map(plain, violated))}")
    return "\n\n".join(part for part in parts if part)


def plain(text: str) -> str:
    """Return a name or message that Markdown shows as it is."""
    flat = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", flat)


def _figures(view: Overview, row: Row, run: StoredRun) -> str:
    attribute = view.judge.primary.attribute or view.base.data.attributes[0]
    heads = ["auc", view.judge.primary.head, fairness_name(view).partition("@")[0]]
    tested = row.phase == FINAL
    frame = suppressed(
        group_table(
            run.test() if tested else run.validation(view.judge.epoch_of(run)),
            list(dict.fromkeys(heads)),
            [attribute],
            minimum=view.judge.validation.minimum,
            threshold=_threshold(run) if tested else view.judge.validation.rule,
            floors=False,
            replicates=REPLICATES,
        )
    )
    frame = frame[frame["target"].isna()]
    split = "test" if tested else "validation"
    primary = view.judge.primary
    own = frame[(frame["metric"] == primary.head) & frame["group"].isna()]
    own = own[own["attribute"] == primary.attribute] if primary.attribute else own
    said = [f"{plain(str(primary))} on {split}: {_with_ends(own)}"]
    auc = frame[frame["metric"] == "auc"]
    lines = [f"| {plain(attribute)} | AUC | 95 % | n | positives |", "|---|---|---|---|---|"]
    lines += [_line("all patients", auc[auc["attribute"].isna()])]
    lines += [_line(str(g), auc[auc["group"] == g]) for g in auc["group"].dropna()]
    return "\n\n".join([*said, "\n".join(lines)])


def _with_ends(rows: pd.DataFrame) -> str:
    if not len(rows):
        return NOTHING
    value, low, high = rows.iloc[0][["value", "low", "high"]]
    return f"**{number(value)}** {ends(low, high)}".strip()


def _line(name: str, rows: pd.DataFrame) -> str:
    value, low, high, n, positives = rows.iloc[0][["value", "low", "high", "n", "positives"]]
    counts = [NOTHING if c != c else f"{int(c):,}" for c in (n, positives)]
    figure = TOO_SMALL if value != value else number(value)
    cells: Sequence[str] = [plain(name), figure, ends(low, high), *counts]
    return f"| {' | '.join(cells)} |"


def _groups_of_row(row: Row) -> str:
    groups = [(k[4:], v) for k, v in row.attrs.items() if k.startswith("auc@") and "/" in k]
    return "AUC: " + ", ".join(f"{plain(k)} {number(v)}" for k, v in groups) if groups else ""
