"""What a study cost: runs, epochs, device time, and energy at a stated draw."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from fairtune.report.trials import number_of
from fairtune.study.overview import Overview
from fairtune.study.rows import (
    BASELINE,
    CONFIRM,
    CONTROL,
    FINAL,
    SEARCH,
    Row,
    current,
    paid_queries,
    valid,
)

WATTS = {"cpu": 100.0, "gpu": 400.0}
"""Draw that is assumed for one device and its share of the machine where nobody states one."""


def cost_frame(view: Overview) -> pd.DataFrame:
    """Return what each phase cost.

    Columns: `phase`, `runs`, `complete`, `pruned`, `failed`, `epochs`, `saved` (epochs that
    pruning spared), `seconds` (device time of all attempts that say so: runs that one process
    made together are counted once), `median` (seconds of a finished run), `queries` (asked for
    edits; NaN where no run had any).
    """
    rows = []
    for phase in (BASELINE, SEARCH, CONTROL, CONFIRM, FINAL):
        kept = valid(view.rows[phase])
        if not kept:
            continue
        spent = [_spent(view, row) for row in kept]
        done = [s for row, (s, _) in zip(kept, spent) if row.state == "complete" and s == s]
        states = [row.state for row in current(kept).values()]
        rows.append(
            {
                "phase": phase,
                "runs": len(states),
                **{state: states.count(state) for state in ("complete", "pruned", "failed")},
                "epochs": sum(e for _, e in spent if e == e),
                "saved": sum(_saved(row) for row in kept),
                "seconds": _device_seconds(view, kept, [s for s, _ in spent]),
                "median": float(pd.Series(done, dtype=float).median()),
                "queries": number_of(paid_queries(kept)),
            }
        )
    return pd.DataFrame(rows)


def _device_seconds(view: Overview, rows: list[Row], seconds: list[float]) -> float:
    """Return the time in which a device was at work.

    A run ends at `finished` and began as many seconds before; what overlaps under one worker is
    one device's time. Runs of `finetune` are written down together, one after another in truth.
    """
    total = 0.0
    spans: dict[str, list[tuple[float, float]]] = {}
    for row, spent in zip(rows, seconds):
        if spent != spent:
            continue
        if row.phase == FINAL or row.finished is None or row.recovered:
            total += spent * _processes(view, row)
        else:
            end = row.finished.timestamp()
            spans.setdefault(row.worker, []).append((end - spent, end))
    return total + sum(covered(own) for own in spans.values())


def _processes(view: Overview, row: Row) -> float:
    stored = view.stored(row) if row.phase == FINAL else None
    return 1.0 if stored is None else float(stored.card["provenance"].get("processes", 1))


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, reached = 0.0, -float("inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _spent(view: Overview, row: Row) -> tuple[float, float]:
    seconds, epochs = number_of(row.attrs.get("seconds")), number_of(row.attrs.get("epochs"))
    if row.state == "complete" and seconds != seconds:
        stored = view.stored(row)
        if stored is not None:
            return number_of(stored.costs.get("seconds")), number_of(stored.costs.get("epochs"))
    return seconds, epochs


def _saved(row: Row) -> float:
    if row.state != "pruned":
        return 0.0
    done = number_of(row.attrs.get("epoch", row.attrs.get("epochs")))
    planned = number_of(
        row.attrs.get("epochs_planned") or row.planned or row.recipe.get("optim", {}).get("epochs")
    )
    return max(0.0, planned - done) if planned == planned and done == done else 0.0


def kilowatt_hours(seconds: float, watts: float) -> float:
    """Return the energy of `seconds` at a constant draw of `watts`."""
    return seconds * watts / 3.6e6


def assumed_watts(device: str | None) -> float:
    """Return the draw that is assumed for a device that runs recorded; None counts as a CPU."""
    return WATTS["cpu"] if device is None or device.startswith("cpu") else WATTS["gpu"]
