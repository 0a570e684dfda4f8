"""The table of what a study cost."""

from __future__ import annotations

from fairtune.report.costs import assumed_watts, kilowatt_hours
from fairtune.report.grid import Cell, Grid, cell
from fairtune.report.tables import Tables
from fairtune.report.words import duration, grouped

HEADS = (
    "phase", "runs", "complete", "pruned", "failed", "epochs", "epochs saved",
    "device time", "device-seconds", "energy (estimate)", "median run",
)  # fmt: skip

EDITS = (
    "A query is one batch of images that the model was asked about to make an edit; an edit is "
    "made once and paid for by the first run that has it."
)


def costs(tables: Tables, watts: float | None = None) -> Grid | None:
    """Return runs, epochs, device time and energy by phase; None when nothing has run.

    Args:
        tables: The study.
        watts: Draw of one device and its share of the machine; default: what is assumed.
    """
    frame = tables.costs
    if not len(frame):
        return None
    draw, device = draw_of(tables, watts)
    rows = []
    for c in frame.to_dict("records"):
        counts = [int(c[k]) for k in ("runs", "complete", "pruned", "failed", "epochs", "saved")]
        rows.append(
            _row(str(c["phase"]), counts, float(c["seconds"]), draw, duration(c["median"]))
        )
    sums = [
        int(frame[k].sum()) for k in ("runs", "complete", "pruned", "failed", "epochs", "saved")
    ]
    rows.append(_row("all", sums, float(frame["seconds"].sum()), draw, ""))
    heads, notes = list(HEADS), []
    if frame["queries"].notna().any():
        asked = [*frame["queries"], frame["queries"].sum()]
        rows = [[*row, Cell(grouped(number))] for row, number in zip(rows, asked)]
        heads.append("queries for edits")
        notes.append(EDITS)
    whose = "as given" if watts is not None else "an assumption, not a measurement"
    name = "not recorded by these runs" if device is None else device
    note = (
        f"Energy is device time at a constant draw of {draw:g} W ({whose}; “--watts” takes "
        f"another). Device: {name}. Runs that one process made together count once; loading, "
        "waiting and failed attempts that left no time are not in it."
    )
    return Grid("Runs, time and energy by phase", heads, rows, notes=[note, *notes])


def draw_of(tables: Tables, watts: float | None) -> tuple[float, str | None]:
    """Return the draw that is reckoned with, and the device that runs recorded, if they did."""
    said = None if tables.run is None else tables.run.card["provenance"].get("device")
    device = None if said is None else str(said)
    return assumed_watts(device) if watts is None else watts, device


def _row(phase: str, counts: list[int], seconds: float, draw: float, median: str) -> list[Cell]:
    tone = "strong" if phase == "all" else "plain"
    energy = kilowatt_hours(seconds, draw)
    return [
        Cell(phase, tone),
        *(cell(count) for count in counts),
        Cell(duration(seconds)),
        Cell(grouped(seconds)),
        Cell(f"{energy:.2g} kWh" if energy < 100 else f"{energy:,.0f} kWh"),
        Cell(median),
    ]
