"""Utility against fairness, on validation."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from fairtune.report.figure import BASE, INK, PICK, PLAIN, Figure, blank, safe
from fairtune.report.tables import Tables

PLACES = ("bottom right", "top right", "bottom left")
"""Where labels stand, in turn, so that neighbours seldom cover each other."""


def figure(tables: Tables) -> Figure | None:
    """Draw the fairness figure of every trial against its overall AUC; None without any."""
    done = tables.trials[tables.trials["state"] == "complete"].dropna(subset=["auc", "fairness"])
    if not len(done):
        return None
    plot = blank(440)
    search = done[done["phase"] == "search"]
    plot.add_scatter(
        x=search["auc"].tolist(),
        y=search["fairness"].tolist(),
        mode="markers",
        marker={"size": 7, "color": PLAIN, "opacity": 0.55},
        name="trial of the search",
        customdata=search["number"].tolist(),
        hovertemplate="trial %{customdata}: AUC %{x:.3f}, %{y:.3f}<extra></extra>",
    )
    points = _confirmed(tables)
    # The pick last, so that no other point covers it.
    ordered = sorted(points.to_dict("records"), key=lambda point: bool(point["pick"]))
    for i, point in enumerate(ordered):
        _with_bars(plot, point, "top left" if point["pick"] else PLACES[i % len(PLACES)])
    plot.update_xaxes(title_text="overall AUC (validation)")
    plot.update_yaxes(title_text=f"{safe(tables.fairness)} (validation)")
    plot.update_layout(showlegend=False)
    if tables.fairness.partition("@")[0].endswith(("_gap", "_diff", "_avg")):
        plot.update_yaxes(autorange="reversed")
        best = "upper right (the axis runs downwards: a small gap is up)"
    else:
        best = "upper right"
    return Figure(
        "tradeoff",
        "Utility and fairness",
        f"Better is to the {best}; where the bars of two recipes overlap, validation cannot tell "
        "them apart. Named are the pick and the baselines; the other points with bars are the "
        "search's next best. The bars are 95 % intervals and wide because there are few "
        "patients; the grey points have bars as wide, left out so that the figure can be read.",
        f"Scatter of {len(done)} runs: overall AUC against {tables.fairness}, with intervals for "
        f"{len(points)} recipes.",
        plot,
        points,
    )


def _confirmed(tables: Tables) -> pd.DataFrame:
    """Return both figures with intervals of every recipe that was confirmed or is shown."""
    head, _, attribute = tables.fairness.partition("@")
    groups = tables.groups
    if not len(groups):
        return pd.DataFrame()
    groups = groups[(groups["split"] == "validation") & groups["target"].isna()]
    rows: list[dict[str, Any]] = []
    for label, own in groups.groupby("recipe", sort=False):
        x = own[(own["metric"] == "auc") & own["attribute"].isna()]
        y = own[(own["metric"] == head) & (own["attribute"] == attribute) & own["group"].isna()]
        if len(x) and len(y) and x["value"].notna().all() and y["value"].notna().all():
            row: dict[str, Any] = {"recipe": label}
            for name, frame in (("AUC", x), (tables.fairness, y)):
                first = frame.iloc[0]
                row |= {name: first["value"], f"{name} low": first["low"]}
                row[f"{name} high"] = first["high"]
            row["baseline"] = bool(
                tables.candidates.set_index("label")["is_baseline"].get(label, False)
            )
            row["pick"] = label == tables.summary.pick
            rows.append(row)
    return pd.DataFrame(rows)


def _with_bars(plot: go.Figure, point: dict[Any, Any], place: str) -> None:
    color = PICK if point["pick"] else BASE if point["baseline"] else INK
    _, x, x_low, x_high, y, y_low, y_high, *_ = point.values()

    def bar(value: float, low: float, high: float) -> dict[str, Any] | None:
        if low != low or high != high:
            return None
        return {
            "type": "data", "symmetric": False, "array": [high - value],
            "arrayminus": [value - low], "color": color, "thickness": 1.2, "width": 4,
        }  # fmt: skip

    label = safe(str(point["recipe"]))
    plot.add_scatter(
        x=[x],
        y=[y],
        error_x=bar(x, x_low, x_high),
        error_y=bar(y, y_low, y_high),
        mode="markers+text",
        marker={
            "size": 12 if point["pick"] else 9,
            "color": color,
            "symbol": "star" if point["pick"] else "diamond" if point["baseline"] else "circle",
        },
        text=[f"<b>{label} (pick)</b>" if point["pick"] else label if point["baseline"] else ""],
        textposition=place,
        textfont={"color": color, "size": 12},
        name=label,
        hovertemplate=f"{label}: AUC %{{x:.3f}}, %{{y:.3f}}<extra></extra>",
    )
