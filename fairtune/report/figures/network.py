"""The picked mask drawn on its network: input on top, head at the foot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from fairtune.report.figure import (
    CELL,
    CLEAR,
    FAINT,
    GROUPS,
    INK,
    MUTED,
    PICK,
    Figure,
    blank,
    safe,
)
from fairtune.report.network import HEAD
from fairtune.report.tables import Tables

ROW, ASIDE, ABOVE = 26, 0.02, 0.07
DIRECT = "direct"


def figure(tables: Tables) -> Figure | None:
    """Draw the parts of every block; None when nothing was picked."""
    cells = tables.network
    if not len(cells):
        return None
    stages = list(dict.fromkeys(cells["stage"]))
    parts = [str(p) for p in dict.fromkeys(cells["part"].dropna())]
    methods = sorted({m for m in cells["method"] if m}, key=lambda m: (m != DIRECT, m))
    colors = _colors(methods)
    plot = blank(70 + ROW * len(stages), margin={"l": 56, "r": 24, "t": 16, "b": 8})
    for cell in cells.to_dict("records"):
        _draw(plot, cell, stages, parts, colors)
    for i, part in enumerate(parts):
        plot.add_annotation(
            x=i + 0.5, y=-0.9, text=safe(part), showarrow=False,
            font={"size": 12, "color": MUTED},
        )  # fmt: skip
    _legend(plot, methods, colors)
    plot.update_xaxes(range=[-0.02, len(parts) + 0.02], visible=False, fixedrange=True)
    plot.update_yaxes(
        range=[len(stages) - 0.5, -0.5 - 0.8],
        tickvals=list(range(len(stages))),
        ticktext=[safe(s) for s in stages],
        showgrid=False,
        ticks="",
        tickfont={"size": 12, "color": INK},
        fixedrange=True,
    )
    model = cells[cells["stage"] != HEAD]
    head = len(cells) > len(model)
    return Figure(
        "network",
        "The pick on its network",
        f"What {tables.summary.pick} trains, from the input on top"
        f"{' to the head at the foot, which always trains' if head else ' down'}. A cell is one "
        "kind of part of one block; a narrow bar means that only that share of its parameters "
        "takes part. Without a colour of its own a part is frozen.",
        f"Drawing of {len(stages)} stages; {int((model['share'] > 0).sum())} of {len(model)} "
        f"parts train{' besides the head' if head else ''}.",
        plot,
        _data(cells),
    )


def _legend(plot: go.Figure, methods: list[str], colors: dict[str, str]) -> None:
    for method in methods:
        plot.add_scatter(
            x=[None], y=[None], mode="markers", name=safe(_words(method)),
            marker={"symbol": "square", "size": 12, "color": colors[method]},
        )  # fmt: skip
    plot.add_scatter(
        x=[None], y=[None], mode="markers", name="frozen",
        marker={
            "symbol": "square", "size": 12, "color": CELL, "line": {"width": 1, "color": MUTED},
        },
    )  # fmt: skip


def _colors(methods: list[str]) -> dict[str, str]:
    """Return a colour per method; full training has the pick's own."""
    others = [m for m in methods if m != DIRECT]
    palette = [c for c in GROUPS if c != GROUPS[0]]
    return {DIRECT: PICK, **{m: palette[i % len(palette)] for i, m in enumerate(others)}}


def _words(method: str) -> str:
    return "trained" if method == DIRECT else f"adapted by {method}"


def _draw(
    plot: go.Figure,
    cell: Mapping[Any, Any],
    stages: list[str],
    parts: list[str],
    colors: dict[str, str],
) -> None:
    """Draw one cell: its frame, and as much of it as takes part."""
    y, whole = stages.index(cell["stage"]), not isinstance(cell["part"], str)
    x, width = (0.0, float(max(len(parts), 1))) if whole else (parts.index(cell["part"]), 1.0)
    left, right, share = x + ASIDE, x + width - ASIDE, float(cell["share"])
    top, foot = y - 0.5 + ABOVE, y + 0.5 - ABOVE
    frame = {"type": "rect", "y0": top, "y1": foot, "layer": "below"}
    plot.add_shape(x0=left, x1=right, fillcolor=CELL, line={"color": FAINT, "width": 1}, **frame)
    if share > 0:
        # A sliver that trains must still be seen.
        end = left + max(share, 0.04) * (right - left)
        plot.add_shape(
            x0=left, x1=end, fillcolor=colors[cell["method"]], line={"width": 0}, **frame
        )
    state = _words(cell["method"]) if share else "frozen"
    part = "" if share in (0.0, 1.0) else f", {share:.1%} of it"
    name = cell["stage"] if whole else f"{cell['stage']}, {cell['part']}"
    plot.add_scatter(
        x=[(left + right) / 2], y=[y], mode="markers", showlegend=False,
        marker={"size": ROW - 4, "symbol": "square", "color": CLEAR},
        hovertemplate=f"{safe(name)}: {safe(state)}{part}<extra></extra>",
    )  # fmt: skip


def _data(cells: pd.DataFrame) -> pd.DataFrame:
    table = cells.copy()
    table["part"] = [p if isinstance(p, str) else "" for p in table["part"]]
    table["method"] = [_words(m) if m else "frozen" for m in table["method"]]
    table["share"] = table["share"].astype(float)
    return table.rename(columns={"share": "share that takes part"})
