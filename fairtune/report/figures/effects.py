"""Which parts of which block go with a better figure when they train: signed, descriptive."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from fairtune.report.effects import Effects
from fairtune.report.figure import BASE, CELL, INK, MUTED, PICK, Figure, blank, safe
from fairtune.report.tables import Tables

OUTSIDE = "outside"


def figure(tables: Tables) -> Figure | None:
    """Draw unit types by blocks, coloured by effect; None where too few trials describe one."""
    found = tables.effects
    if found is None:
        return None
    frame = found.frame
    types = list(dict.fromkeys(frame["type"]))
    places = [_place(d) for d in frame["depth"]]
    depths = sorted({d for d in frame["depth"] if d is not None and d == d})
    columns = [_place(d) for d in range(int(max(depths)) + 1)] if depths else []
    columns += [OUTSIDE] if OUTSIDE in places else []
    plot = blank(max(190, 110 + 30 * len(types)))
    _map(plot, found, places, types, columns)
    plot.update_layout(margin={"t": 34})
    plot.update_xaxes(
        title_text="block", type="category", showgrid=False, tickangle=0, tickfont={"size": 11}
    )
    plot.update_yaxes(autorange="reversed", showgrid=False, tickfont={"size": 12, "color": INK})
    return Figure(
        "effects",
        "Which parts go with a better figure",
        _caption(tables, found),
        f"Heatmap of the effect of {len(frame)} switches on {tables.objective}, unit types by "
        f"blocks, from {found.runs} finished runs.",
        plot,
        _data(frame, places),
    )


def _map(
    plot: go.Figure, found: Effects, places: list[str], types: list[str], columns: list[str]
) -> None:
    frame = found.frame
    by = dict(zip(zip(frame["type"], places), zip(frame["effect"], frame["trained"])))
    values = [[by.get((t, c), (None, None))[0] for c in columns] for t in types]
    most = max(abs(frame["effect"]).max(), found.spread / 2)
    plot.add_heatmap(
        z=values,
        x=columns,
        y=[safe(t) for t in types],
        colorscale=[[0, BASE], [0.5, CELL], [1, PICK]],
        zmid=0,
        zmin=-most,
        zmax=most,
        xgap=1,
        ygap=1,
        colorbar={
            "title": {"text": "effect", "font": {"size": 12, "color": MUTED}},
            "tickfont": {"size": 11, "color": MUTED}, "tickformat": "+.3f", "nticks": 5,
            "outlinewidth": 0, "thickness": 12, "len": 1.0,
        },
        customdata=[[by.get((t, c), (None, 0))[1] for c in columns] for t in types],
        hovertemplate="%{y}, block %{x}: %{z:+.4f}, trained in %{customdata} "
        f"of {found.runs} runs<extra></extra>",
        hoverongaps=False,
    )  # fmt: skip


def _place(depth: object) -> str:
    return OUTSIDE if depth is None or depth != depth else str(int(depth) + 1)  # type: ignore[call-overload]


def _caption(tables: Tables, found: Effects) -> str:
    if found.explained <= 0:
        worth = "they predict a run that was left out no better than the mean does: read nothing "
        worth += "into the map"
    else:
        worth = f"together they explain {100 * found.explained:.0f} % of the variance of runs "
        worth += "that are left out"
    return (
        f"Blue: training the part went with a better {tables.objective}, orange: with a worse "
        f"one. A ridge regression on {found.runs} finished runs with {found.recipes} different "
        f"masks, the other searched parameters beside them; {worth}. It describes these runs, "
        "which the sampler did not choose at random, and claims no cause."
    )


def _data(frame: pd.DataFrame, places: list[str]) -> pd.DataFrame:
    table = frame[["type"]].rename(columns={"type": "part"})
    table["block"] = places
    table["effect"] = frame["effect"].astype(float)
    table["runs that trained it"] = frame["trained"].astype(int)
    return table.sort_values("effect", ascending=False, kind="stable")
