"""The search over time: every trial, the incumbent, the baselines."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from fairtune.report.figure import BAD, BASE, MUTED, PICK, PLAIN, Figure, blank, safe
from fairtune.report.tables import Tables


def figure(tables: Tables) -> Figure | None:
    """Draw the value of each trial by its number; None before the first one."""
    trials = tables.trials[tables.trials["phase"] == "search"]
    if not len(trials):
        return None
    plot = blank(380)
    done = trials[trials["state"] == "complete"]
    good, flat = done[done["degenerate"].isna()], done[done["degenerate"].notna()]
    _points(plot, good[good["kind"] != "anchor"], "trial", "circle", PLAIN)
    _anchors(plot, good[good["kind"] == "anchor"])
    _points(plot, flat, "degenerate", "circle-open", BAD)
    known = [*done["value"], *tables.candidates["searched"].dropna()]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    pad = 0.06 * (high - low or 0.1)
    _without(plot, trials, "pruned", "triangle-down-open", PLAIN, low - 2 * pad)
    _without(plot, trials, "failed", "x-thin", BAD, low - 2 * pad)
    best = trials.dropna(subset=["incumbent"])
    plot.add_scatter(
        x=best["number"].tolist(),
        y=best["incumbent"].tolist(),
        mode="lines",
        line={"shape": "hv", "width": 2.5, "color": PICK},
        name="incumbent (shrunken mean)",
        hovertemplate="after trial %{x}: %{y:.3f}<extra>incumbent</extra>",
    )
    _baselines(plot, tables)
    plot.update_xaxes(title_text="trial", rangemode="tozero", showgrid=False)
    plot.update_yaxes(
        title_text=f"{safe(str(tables.objective))} (validation)",
        range=[low - 3 * pad, high + 2 * pad],
    )
    shown = trials[["number", "state", "kind", "label", "value", "incumbent", "degenerate"]]
    return Figure(
        "history",
        "History of the search",
        "Look at whether the incumbent still climbs at the end and whether it leaves the dashed "
        "lines of the baselines behind; single high points are mostly luck, which is why the "
        "incumbent is a shrunken mean.",
        f"Scatter of {len(trials)} trials by number with a line for the incumbent and dashed "
        "lines for the baselines.",
        plot,
        shown,
    )


def _points(plot: go.Figure, rows: pd.DataFrame, name: str, symbol: str, color: str) -> None:
    rows = rows.dropna(subset=["value"])
    if len(rows):
        plot.add_scatter(
            x=rows["number"].tolist(),
            y=rows["value"].tolist(),
            mode="markers",
            marker={"symbol": symbol, "size": 8, "color": color, "line": _edge(symbol, color)},
            name=name,
            hovertemplate=f"trial %{{x}}: %{{y:.3f}}<extra>{name}</extra>",
        )


def _anchors(plot: go.Figure, rows: pd.DataFrame) -> None:
    _points(plot, rows, "anchor (a well-known mask, tried first)", "square", MUTED)
    for number, value, label in zip(rows["number"], rows["value"], rows["label"]):
        plot.add_annotation(
            x=number, y=value, text=safe(label), showarrow=False, textangle=-40, xanchor="left",
            yanchor="bottom", xshift=3, font={"size": 11, "color": MUTED},
        )  # fmt: skip


def _edge(symbol: str, color: str) -> dict[str, object]:
    return {"width": 1.5 if symbol.endswith("-open") else 0, "color": color}


def _without(
    plot: go.Figure, trials: pd.DataFrame, state: str, symbol: str, color: str, at: float
) -> None:
    """Mark trials at the foot: what a run reads when it is cut short compares with nothing."""
    rows = trials[trials["state"] == state]
    if len(rows):
        plot.add_scatter(
            x=rows["number"].tolist(),
            y=[at] * len(rows),
            mode="markers",
            marker={
                "symbol": symbol,
                "size": 9,
                "color": color,
                "line": {"width": 2, "color": color},
            },
            name=f"{state} (at the foot: no comparable value)",
            hovertemplate=f"trial %{{x}}<extra>{state}</extra>",
        )


def _baselines(plot: go.Figure, tables: Tables) -> None:
    rows = tables.candidates[tables.candidates["is_baseline"]].sort_values("searched")
    values = [*tables.trials["value"].dropna(), *rows["searched"]]
    close = 0.045 * ((max(values) - min(values)) or 1.0) if values else 0.0
    last = -float("inf")
    for label, value in zip(rows["label"], rows["searched"]):
        plot.add_hline(y=value, line={"color": BASE, "dash": "dash", "width": 1.3})
        # Rows come in order of value, so names of lines that lie close are stacked upwards.
        last = max(value, last + close)
        plot.add_annotation(
            x=1, xref="paper", y=last, text=safe(label), showarrow=False, xanchor="right",
            yanchor="bottom", font={"size": 11, "color": BASE},
        )  # fmt: skip
