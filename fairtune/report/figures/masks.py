"""Which parts of the network each recipe of the search trains."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from fairtune.report.figure import CELL, FAINT, INK, MUTED, PICK, Figure, blank, safe
from fairtune.report.tables import Tables

ROW, MOST_LABELS, FEW_COLUMNS = 15, 80, 24
TILTED = 7
"""Height in pixels of a letter of a tilted label."""


def figure(tables: Tables) -> Figure | None:
    """Draw recipes by switches, best on top; None when no recipe trains anything."""
    table, switches = tables.masks, tables.switches
    if not len(table) or not len(switches):
        return None
    on = table[list(range(len(switches)))].to_numpy()
    rows = len(table)
    plot = blank(max(200, min(1100, 110 + ROW * rows)))
    names = [safe(_name(switch)) for switch in _each(switches)]
    hover = [
        [f"{name}: {'trained' if cell else 'frozen'}" for name, cell in zip(names, row)]
        for row in on
    ]
    plot.add_heatmap(
        z=on.tolist(),
        x=list(range(len(switches))),
        y=list(range(rows)),
        colorscale=[[0, CELL], [1, PICK]],
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=1,
        ygap=1,
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
    )
    _columns(plot, switches)
    picked = _rows(plot, tables)
    where = "The row in bold with the arrow is the pick. " if picked else ""
    return Figure(
        "masks",
        "What the recipes train",
        f"{where}Look for columns that are blue at the top and empty at the bottom: parts whose "
        "training goes with a better figure. Each row is a recipe, best on top; each column is a "
        "part of the network, grouped by kind and from the first block to the last; blue is "
        "trained, and parts that no recipe trains are left out.",
        f"Heatmap of {rows} recipes by {len(switches)} parts of the network, sorted by value.",
        plot,
        _data(tables),
    )


def _each(switches: pd.DataFrame) -> list[tuple[str, int | None]]:
    return [
        (name, None if depth is None or depth != depth else int(depth))
        for name, depth in zip(switches["type"], switches["depth"])
    ]


def _name(switch: tuple[str, int | None]) -> str:
    name, depth = switch
    return name if depth is None else f"{name}, block {depth + 1}"


def _columns(plot: go.Figure, switches: pd.DataFrame) -> None:
    """Label depths below and types above, with a line between types."""
    each = _each(switches)
    step = 1 if len(each) <= FEW_COLUMNS else 3
    starts = [i for i, s in enumerate(each) if i == 0 or s[0] != each[i - 1][0]]
    plot.update_xaxes(
        tickvals=list(range(len(each))),
        ticktext=["" if d is None or d % step else str(d + 1) for _, d in each],
        title_text="block",
        showgrid=False,
        tickangle=0,
        tickfont={"size": 10, "color": MUTED},
    )
    above = 32
    for start, end in zip(starts, [*starts[1:], len(each)]):
        if start:
            plot.add_vline(x=start - 0.5, line={"color": INK, "width": 1})
        tilted = end - start == 1 and len(each) >= 20
        above = max(above, TILTED * len(each[start][0]) if tilted else 0)
        plot.add_annotation(
            x=(start + end - 1) / 2, y=1, yref="paper", yanchor="bottom", showarrow=False,
            text=safe(each[start][0]), font={"size": 12, "color": INK},
            textangle=-60 if tilted else 0,
        )  # fmt: skip
    plot.update_layout(margin={"t": above})


def _rows(plot: go.Figure, tables: Tables) -> bool:
    table, picked = tables.masks, False
    texts = []
    for i, (digest, number, value) in enumerate(zip(table.index, table["number"], table["value"])):
        text = f"trial {number}  {value:.3f}"
        if digest == tables.pick_digest:
            text, picked = f"<b>▶ {text}</b>", True
            plot.add_shape(
                type="rect", xref="paper", x0=0, x1=1, y0=i - 0.5, y1=i + 0.5,
                line={"color": INK, "width": 2},
            )  # fmt: skip
        texts.append(text)
    step = max(1, len(table) // MOST_LABELS)
    kept = [i for i in range(len(table)) if i % step == 0 or texts[i].startswith("<b>")]
    plot.update_yaxes(
        tickvals=kept,
        ticktext=[texts[i] for i in kept],
        autorange="reversed",
        showgrid=False,
        tickfont={"size": 11, "color": INK},
        linecolor=FAINT,
    )
    return picked


def _data(tables: Tables) -> pd.DataFrame:
    trials = tables.trials[tables.trials["phase"] == "search"].set_index("number")
    table = tables.masks[["number", "value"]].copy()
    table["blocks"] = [trials["glyph"].get(n, "") for n in table["number"]]
    table["trained share"] = [float(trials["share"].get(n, float("nan"))) for n in table["number"]]
    return table.rename(columns={"blocks": "blocks (. frozen, : part, # all)"})
