"""Two attributes at once: who is served worst where groups meet?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from fairtune.report.figure import CELL, INK, MUTED, TINT, Figure, blank, safe
from fairtune.report.tables import Tables
from fairtune.report.words import TOO_SMALL, ends, number, with_ends

ROW = 46


def figure(tables: Tables) -> Figure | None:
    """Draw one panel per pair of attributes; None with fewer than two cells to show."""
    frame = tables.crossings
    if not len(frame) or frame["shown"].sum() < 2:
        return None
    pairs = list(dict.fromkeys(zip(frame["first"], frame["second"])))
    rows = sum(frame[frame["first"] == a]["row"].nunique() for a, _ in pairs)
    shown = frame[frame["shown"]]
    low, high = float(shown["value"].min()), float(shown["value"].max())
    plot = blank(70 + 90 * len(pairs) + ROW * rows, panels=len(pairs), gap=90)
    for i, (a, b) in enumerate(pairs):
        own = frame[(frame["first"] == a) & (frame["second"] == b)]
        _panel(plot, own, "" if i == 0 else str(i + 1), (low, max(high, low + 0.02)))
    plot.update_layout(margin={"t": 34})
    hidden = int((~frame["shown"]).sum())
    few = f" {hidden} cell(s) hold too few patients to say anything." if hidden else ""
    worst = shown.sort_values("value", kind="stable").iloc[0]
    return Figure(
        "crossings",
        f"Where groups meet, {tables.split}",
        "AUC of the pick in every crossing, with its 95 % interval; the stronger the colour, the "
        f"better.{few} The lowest is {worst['row']}, {worst['column']}; the lowest of many small "
        "cells is "
        "always low, so look at whether its interval leaves out the others' values.",
        f"Heatmap of the AUC in {len(shown)} crossings of groups; lowest {worst['value']:.3f} in "
        f"{worst['row']}, {worst['column']}.",
        plot,
        _data(frame),
    )


def _panel(plot: go.Figure, own: pd.DataFrame, axis: str, scale: tuple[float, float]) -> None:
    rows, columns = list(dict.fromkeys(own["row"])), list(dict.fromkeys(own["column"]))
    by = {(r["row"], r["column"]): r for r in own.to_dict("records")}
    cells = [[by[r, c] for c in columns] for r in rows]
    plot.add_heatmap(
        z=[[cell["value"] if cell["shown"] else None for cell in line] for line in cells],
        x=[safe(c) for c in columns],
        y=[safe(r) for r in rows],
        text=[[_told(cell) for cell in line] for line in cells],
        texttemplate="%{text}",
        textfont={"size": 12, "color": INK},
        colorscale=[[0, CELL], [1, TINT]],
        zmin=scale[0],
        zmax=scale[1],
        showscale=False,
        xgap=2,
        ygap=2,
        hoverinfo="skip",
        xaxis=f"x{axis}",
        yaxis=f"y{axis}",
    )
    # A heatmap writes no text where it has no value.
    for r, line in zip(rows, cells):
        for c, cell in zip(columns, line):
            if not cell["shown"]:
                plot.add_annotation(
                    x=safe(c), y=safe(r), xref=f"x{axis}", yref=f"y{axis}", showarrow=False,
                    text=TOO_SMALL, font={"size": 11, "color": MUTED},
                )  # fmt: skip
    first, second = own["first"].iloc[0], own["second"].iloc[0]
    ticks = {"type": "category", "showgrid": False, "tickfont": {"size": 12, "color": INK}}
    plot.update_layout(
        {
            f"xaxis{axis}": {**ticks, "title": {"text": safe(second)}},
            f"yaxis{axis}": {**ticks, "title": {"text": safe(first)}, "autorange": "reversed"},
        }
    )


def _told(cell: Mapping[Any, Any]) -> str:
    if not cell["shown"]:
        return ""
    n = "" if cell["n"] != cell["n"] else f"<br>n {int(cell['n']):,}"
    return f"<b>{number(cell['value'])}</b> {ends(cell['low'], cell['high'])}{n}"


def _data(frame: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "crossing": [f"{r}, {c}" for r, c in zip(frame["row"], frame["column"])],
            "of": [f"{a} and {b}" for a, b in zip(frame["first"], frame["second"])],
        }
    )
    table["AUC [95 %]"] = [
        with_ends(r["value"], r["low"], r["high"]) if r["shown"] else TOO_SMALL
        for r in frame.to_dict("records")
    ]
    return table
