"""Validation of the incumbent against what fresh seeds and test patients say of it."""

from __future__ import annotations

import pandas as pd

from fairtune.report.trials import incumbent_entries
from fairtune.study.outcome import Outcome
from fairtune.study.overview import Overview
from fairtune.study.rows import CONFIRM, SEARCH, results

NAN = float("nan")


def overtuning_frame(view: Overview, outcome: Outcome | None) -> pd.DataFrame:
    """Return the incumbents of the search in the order in which they took over.

    Columns: `trial` (after which it was the incumbent), `until` (last trial of its reign),
    `searched` (its value then, the one it was chosen by), `confirmed` (mean over fresh seeds on
    the same patients), `low`, `high` (smallest and largest of them), `seeds`, `test` (mean over
    the retrained seeds). What was never confirmed or tested is NaN.
    """
    entries = incumbent_entries(view.rows[SEARCH], view.judge.primary.sign)
    confirmed: dict[str, list[float]] = {}
    for row in results(view.rows[CONFIRM]):
        if row.values is not None:
            confirmed.setdefault(row.digest, []).append(row.values[0])
    tested = {} if outcome is None else _tested(view, outcome)
    rows: list[dict[str, float]] = []
    last = max(entries, default=0)
    previous: str | None = None
    for number, entry in entries.items():
        if entry.digest == previous:
            continue
        if rows:
            rows[-1]["until"] = number
        previous = entry.digest
        fresh = confirmed.get(entry.digest, [])
        rows.append(
            {
                "trial": number,
                "until": last,
                "searched": entry.shrunk,
                "confirmed": sum(fresh) / len(fresh) if fresh else NAN,
                "low": min(fresh, default=NAN),
                "high": max(fresh, default=NAN),
                "seeds": len(fresh),
                "test": tested.get(entry.digest, NAN),
            }
        )
    columns = ["trial", "until", "searched", "confirmed", "low", "high", "seeds", "test"]
    return pd.DataFrame(rows, columns=columns)


def _tested(view: Overview, outcome: Outcome) -> dict[str, float]:
    return {
        str(tested.runs[0].card["digest"]): tested.mean(view, view.judge.primary)
        for tested in outcome.tested.values()
    }
