"""Does a better value in the search mean a better recipe? Incumbents on what it did not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fairtune.study.outcome import Outcome
from fairtune.study.overview import Overview
from fairtune.study.rank import Ranked, ranked
from fairtune.study.rows import CONFIRM, SEARCH, Row, current, results

NAN = float("nan")
COLUMNS = (
    "trial", "until", "digest", "searched", "part", "confirmed", "low", "high", "seeds", "test",
    "overtuned",
)  # fmt: skip


def overtuning_frame(view: Overview, outcome: Outcome | None = None) -> pd.DataFrame:
    r"""Return the incumbents of the search in the order in which they took over.

    Columns: `trial` (from 1, after which it was the incumbent), `until` (last trial of its reign),
    `digest`, `searched` (the shrunken mean it was chosen by), `part` (mean of its runs in the
    search on the patients of `confirm_part`, known for every incumbent), `confirmed` (mean over
    fresh seeds, on the same patients as `part` where there are any), `low`, `high` (smallest and
    largest of them), `seeds`, `test` (mean over the retrained seeds, once the test is open), and
    `overtuned`: by how much the best incumbent so far was better on what the search did not see,
    $\max_{t' \le t} s\,u_{t'} - s\,u_t$ with s the sign of the objective and u the value
    `confirmed`, else `part` (Schneider, Bischl and Feurer 2025, who take the test error for u).
    What is not known is NaN.

    Args:
        view: The study.
        outcome: Its tested set, if there is one.
    """
    confirmed: dict[str, list[float]] = {}
    for row in results(view.rows[CONFIRM]):
        if row.values is not None:
            confirmed.setdefault(row.digest, []).append(row.values[0])
    tested = {} if outcome is None else _tested(view, outcome)
    found: list[dict[str, float | str]] = []
    reigns = incumbents(view.rows[SEARCH], view.judge.primary.sign)
    for i, (number, entry) in enumerate(reigns):
        fresh = confirmed.get(entry.digest, [])
        until = reigns[i + 1][0] if i + 1 < len(reigns) else _last(view.rows[SEARCH])
        found.append(
            {
                "trial": number,
                "until": until,
                "digest": entry.digest,
                "searched": entry.shrunk,
                "part": _on_part(view, entry.rows),
                "confirmed": float(np.mean(fresh)) if fresh else NAN,
                "low": min(fresh, default=NAN),
                "high": max(fresh, default=NAN),
                "seeds": len(fresh),
                "test": tested.get(entry.digest, NAN),
            }
        )
    frame = pd.DataFrame(found, columns=list(COLUMNS[:-1]))
    unseen = view.judge.primary.sign * frame["confirmed"].fillna(frame["part"])
    frame["overtuned"] = unseen.cummax() - unseen
    return frame


def incumbents(rows: Sequence[Row], sign: int) -> list[tuple[int, Ranked]]:
    """Return each recipe that became the best shrunken mean, with the trial, from 1.

    Constant recipes are never an incumbent, those at chance only while there is no other.

    Args:
        rows: Rows of the search.
        sign: 1 when a larger objective is better.
    """
    found: list[tuple[int, Ranked]] = []
    for number in _numbers(rows):
        entries = ranked([row for row in rows if row.number <= number], sign)
        best = next((e for e in entries if not e.unusable), None)
        if best is not None and (not found or best.digest != found[-1][1].digest):
            found.append((number + 1, best))
    return found


def _numbers(rows: Sequence[Row]) -> list[int]:
    return sorted(r.number for r in current(rows).values() if r.state == "complete")


def _last(rows: Sequence[Row]) -> int:
    return max(_numbers(rows), default=-1) + 1


def _on_part(view: Overview, rows: Sequence[Row]) -> float:
    if not view.judge.validation.confirm_part:
        return NAN
    judge = view.judge.on("confirm")
    runs = [run for row in rows if (run := view.stored(row)) is not None]
    values = [judge.values(run.validation(judge.epoch_of(run))) for run in runs]
    return float(np.mean([v[str(judge.primary)] for v in values])) if values else NAN


def _tested(view: Overview, outcome: Outcome) -> Mapping[str, float]:
    return {
        str(tested.runs[0].card["digest"]): value
        for tested in outcome.tested.values()
        if (value := tested.known(view, view.judge.primary)) is not None
    }
