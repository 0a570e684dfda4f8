"""Objectives against each other, on validation: what no other run beats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from fairtune.evaluation.objectives import Objective
from fairtune.report.figure import BAD, BASE, INK, PICK, PLAIN, Figure, blank, safe
from fairtune.report.tables import Tables
from fairtune.report.words import with_ends

PLACES = ("bottom right", "top right", "bottom left")
"""Where labels stand, in turn, so that neighbours seldom cover each other."""


def figure(tables: Tables) -> Figure | None:
    """Draw the primary objective against each other one; None without any finished run."""
    axes = [str(axis) for axis in tables.axes]
    points = tables.points.dropna(subset=axes)
    if not len(points):
        return None
    primary, *others = tables.axes
    plot = blank(60 + 380 * len(others), panels=len(others))
    bars = _bars(tables)
    for i, other in enumerate(others):
        number = "" if i == 0 else str(i + 1)
        names = (str(other), str(primary))
        _cloud(plot, points, names, number)
        if len(others) == 1:
            _front(plot, points, names, number)
        # The pick last, so that no other point covers it.
        for j, line in enumerate(sorted(bars.to_dict("records"), key=lambda b: bool(b["pick"]))):
            _with_bars(plot, line, names, number, "top left" if line["pick"] else PLACES[j % 3])
        _axis(plot, f"xaxis{number}", other)
        _axis(plot, f"yaxis{number}", primary)
    return Figure(
        "tradeoff",
        "Pareto front",
        _caption(tables, points),
        f"Scatter of {len(points)} runs: {' and '.join(axes[1:])} against {axes[0]}; "
        f"{int(points['front'].sum())} on the front, intervals for {len(bars)} recipes.",
        plot,
        _data(tables, points, bars),
    )


def _bars(tables: Tables) -> pd.DataFrame:
    bars = tables.bars.copy()
    baseline = tables.candidates.set_index("label")["is_baseline"]
    bars["baseline"] = [bool(baseline.get(label, False)) for label in bars["recipe"]]
    bars["pick"] = bars["recipe"] == tables.summary.pick
    return bars


def _cloud(plot: go.Figure, points: pd.DataFrame, names: tuple[str, str], number: str) -> None:
    """Draw single runs: of the front, feasible, and violating a constraint."""
    for on, words, marker in (
        (points["front"], "on the front", {"size": 9, "color": INK, "symbol": "circle"}),
        (
            points["feasible"] & ~points["front"],
            "other run",
            {"size": 7, "color": PLAIN, "opacity": 0.55, "symbol": "circle"},
        ),
        (
            ~points["feasible"],
            "violates a constraint",
            {"size": 8, "color": BAD, "symbol": "x-thin", "line": {"width": 2, "color": BAD}},
        ),
    ):
        own = points[on]
        if len(own):
            who = [f"{p} {n}" for p, n in zip(own["phase"], own["number"])]
            plot.add_scatter(
                x=own[names[0]].tolist(), y=own[names[1]].tolist(), mode="markers",
                marker=marker, name=words, legendgroup=words, showlegend=number == "",
                customdata=who, xaxis=f"x{number}", yaxis=f"y{number}",
                hovertemplate=f"%{{customdata}}: %{{x:.3f}}, %{{y:.3f}}<extra>{words}</extra>",
            )  # fmt: skip


def _front(plot: go.Figure, points: pd.DataFrame, names: tuple[str, str], number: str) -> None:
    own = points[points["front"]].sort_values(names[0])
    plot.add_scatter(
        x=own[names[0]].tolist(), y=own[names[1]].tolist(), mode="lines",
        line={"color": INK, "width": 1.2, "dash": "dot"}, showlegend=False, hoverinfo="skip",
        xaxis=f"x{number}", yaxis=f"y{number}",
    )  # fmt: skip


def _with_bars(
    plot: go.Figure, line: Mapping[Any, Any], names: tuple[str, str], number: str, place: str
) -> None:
    color = PICK if line["pick"] else BASE if line["baseline"] else INK
    label = safe(str(line["recipe"]))
    named = line["pick"] or line["baseline"]
    plot.add_scatter(
        x=[line[names[0]]],
        y=[line[names[1]]],
        error_x=_bar(line, names[0], color),
        error_y=_bar(line, names[1], color),
        mode="markers+text",
        marker={
            "size": 12 if line["pick"] else 9,
            "color": color,
            "symbol": "star" if line["pick"] else "diamond" if line["baseline"] else "square",
        },
        text=[f"<b>{label} (pick)</b>" if line["pick"] else label if named else ""],
        textposition=place,
        textfont={"color": color, "size": 12},
        name=label,
        showlegend=False,
        xaxis=f"x{number}",
        yaxis=f"y{number}",
        hovertemplate=f"{label}: %{{x:.3f}}, %{{y:.3f}}<extra></extra>",
    )


def _bar(line: Mapping[Any, Any], name: str, color: str) -> dict[str, Any] | None:
    value, low, high = line[name], line[f"{name} low"], line[f"{name} high"]
    if low != low or high != high:
        return None
    return {
        "type": "data", "symmetric": False, "array": [high - value],
        "arrayminus": [value - low], "color": color, "thickness": 1.2, "width": 4,
    }  # fmt: skip


def _axis(plot: go.Figure, name: str, objective: Objective) -> None:
    title = f"{safe(str(objective))} (validation)"
    plot.update_layout({name: {"title": {"text": title}}})
    if objective.sign < 0:
        plot.update_layout({name: {"autorange": "reversed"}})


def _caption(tables: Tables, points: pd.DataFrame) -> str:
    turned = [str(axis) for axis in tables.axes if axis.sign < 0]
    axes = f" ({', '.join(turned)}: the axis runs backwards, so small is good)" if turned else ""
    broken = int((~points["feasible"]).sum())
    crosses = f" {broken} run(s) violate a constraint and cannot be on it." if broken else ""
    other = (
        ""
        if len(tables.axes) == 2
        else " On a panel a member of the front may look beaten: it wins on another axis."
    )
    return (
        f"Better is to the upper right{axes}. Dark points are runs that no other run beats on "
        f"every axis.{crosses}{other} Points are single runs and move with the seed; named, with "
        "95 % intervals from the patients, are the pick and the baselines (squares: the search's "
        "next best). Where bars overlap, validation cannot tell two recipes apart."
    )


def _data(tables: Tables, points: pd.DataFrame, bars: pd.DataFrame) -> pd.DataFrame:
    axes = [str(axis) for axis in tables.axes]
    table = pd.DataFrame({"run": [f"{p} {n}" for p, n in zip(points["phase"], points["number"])]})
    for axis in axes:
        table[axis] = points[axis].tolist()
    table["on the front"] = points["front"].tolist()
    if not points["feasible"].all():
        table["feasible"] = points["feasible"].tolist()
    known = pd.DataFrame({"run": bars["recipe"]})
    for axis in axes:
        known[axis] = [
            with_ends(*line)
            for line in zip(*(bars[f"{axis}{end}"] for end in ("", " low", " high")))
        ]
    return pd.concat([known, table], ignore_index=True)
