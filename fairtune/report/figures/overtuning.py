"""Does a better figure in the search mean a better recipe? Incumbents, confirmed and tested."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from fairtune.report.figure import BAD, BASE, INK, PICK, Figure, bar, blank, safe
from fairtune.report.tables import Tables


def figure(tables: Tables) -> Figure | None:
    """Draw the incumbents' figures by stage; None where none of them was confirmed."""
    frame = tables.overtuning
    if not len(frame) or not frame["confirmed"].notna().any():
        return None
    plot = blank(360)
    plot.add_scatter(
        x=[*frame["trial"], frame["until"].iloc[-1]],
        y=[*frame["searched"], frame["searched"].iloc[-1]],
        mode="lines+markers",
        line={"shape": "hv", "width": 2.5, "color": PICK},
        marker={"size": [7] * len(frame) + [0], "color": PICK},
        name="in the search (it was chosen by this)",
        hovertemplate="from trial %{x}: %{y:.3f}<extra>in the search</extra>",
    )
    known, tested = frame[frame["confirmed"].notna()], frame[frame["test"].notna()]
    _points(plot, known, tested)
    plot.update_xaxes(title_text="trial", rangemode="tozero", showgrid=False)
    plot.update_yaxes(title_text=safe(str(tables.objective)))
    return Figure(
        "overtuning",
        "Is the climb real?",
        _caption(tables),
        f"Step line of {len(frame)} incumbents by trial, {len(known)} of them with their value "
        f"under fresh seeds and {len(tested)} with that on test.",
        plot,
        frame.rename(columns={"until": "until trial", "searched": "search", "low": "lowest seed",
                              "high": "highest seed"}),
    )  # fmt: skip


def _points(plot: go.Figure, known: pd.DataFrame, tested: pd.DataFrame) -> None:
    plot.add_scatter(
        x=known["trial"].tolist(),
        y=known["confirmed"].tolist(),
        mode="markers",
        marker={"size": 10, "symbol": "diamond", "color": BASE},
        error_y=bar(known["confirmed"], known["low"], known["high"], BASE, width=5),
        name="confirmed (mean and range of fresh seeds)",
        hovertemplate="incumbent from trial %{x}: %{y:.3f}<extra>confirmed</extra>",
    )
    if len(tested):
        plot.add_scatter(
            x=tested["trial"].tolist(),
            y=tested["test"].tolist(),
            mode="markers",
            marker={
                "size": 12,
                "symbol": "star",
                "color": BAD,
                "line": {"width": 0.5, "color": INK},
            },
            name="test (other patients)",
            hovertemplate="incumbent from trial %{x}: %{y:.3f}<extra>test</extra>",
        )


def _caption(tables: Tables) -> str:
    frame = tables.overtuning[tables.overtuning["confirmed"].notna()]
    lost = (tables.objective.sign * (frame["searched"] - frame["confirmed"])).mean()
    fell = "better" if lost > 0 else "worse"
    return (
        f"{len(frame)} incumbent(s) were run again with fresh seeds: the search had read them "
        f"{abs(lost):.3f} {fell}, on average. A line that climbs while the diamonds "
        "do not is a search that tunes to noise. Confirmed on the same patients, so this shows "
        "luck with seeds only; what was chosen to suit these patients shows on test alone. "
        "Incumbents without a diamond were not run again."
    )
