"""Which parameter of the search matters, and how much would by chance."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from fairtune.report.figure import INK, MUTED, PICK, PLAIN, Figure, blank, safe
from fairtune.report.tables import Tables

MOST = 15


def figure(tables: Tables) -> Figure | None:
    """Draw the share of every parameter with the mark of chance; None with too few trials."""
    frame = tables.importance.head(MOST)
    if not len(frame):
        return None
    names = [
        safe(f"{p} ({n} switches)" if n > 1 else str(p))
        for p, n in zip(frame["parameter"], frame["switches"])
    ]
    above = (frame["share"] > frame["chance"]).tolist()
    plot = blank(110 + 30 * len(names))
    _bars(plot, frame, names, above)
    told = [str(p) for p, a in zip(frame["parameter"], above) if a]
    says = (
        f"Beyond chance: {', '.join(told)}. " if told
        else "No bar passes its mark: these trials cannot say which parameter matters. "
    )  # fmt: skip
    return Figure(
        "importance",
        "Importance of the searched parameters",
        f"{says}Bars are shares by Optuna's PED-ANOVA for {tables.objective} on finished trials, "
        "the switches of one unit type added up; the black mark is what the same share reaches in "
        "95 % of shuffles of the values between the trials.",
        f"Bar chart of the importance of {len(names)} parameters with a mark for chance; "
        + (f"beyond chance: {', '.join(told)}." if told else "none is beyond chance."),
        plot,
        frame.rename(columns={"chance": "95 % of chance"}),
    )


def _bars(plot: go.Figure, frame: pd.DataFrame, names: list[str], above: list[bool]) -> None:
    plot.add_bar(
        x=frame["share"].tolist(),
        y=names,
        orientation="h",
        marker={"color": [PICK if a else PLAIN for a in above]},
        name="share",
        hovertemplate="%{y}: %{x:.2f}<extra></extra>",
        showlegend=False,
    )
    plot.add_scatter(
        x=frame["chance"].tolist(),
        y=names,
        mode="markers",
        marker={"symbol": "line-ns", "size": 16, "line": {"width": 2.5, "color": INK}},
        name="95 % of what chance gives",
        hovertemplate="chance: up to %{x:.2f}<extra></extra>",
    )
    plot.update_xaxes(title_text="share of the importance", rangemode="tozero")
    plot.update_yaxes(autorange="reversed", showgrid=False, tickfont={"size": 12, "color": MUTED})
    plot.update_layout(bargap=0.35)
