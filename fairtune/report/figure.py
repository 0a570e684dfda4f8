"""A figure, and how all figures look. Colours are those of the light page.

The page swaps each colour of `DARK` for its partner when the reader prefers a dark one, so a
figure never asks which page it is on.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import plotly.graph_objects as go

INK, MUTED, FAINT, CELL = "#1B2733", "#5B6875", "#DCE2E8", "#EDF1F5"
TINT = "#9CC8EC"
"""The end of a scale whose cells carry text."""
PICK, BASE, BAD, PLAIN = "#0B5FA5", "#B3500A", "#B0205E", "#8A97A5"
GROUPS = ("#0072B2", "#D15F00", "#00845F", "#B2558A", "#7A6900", "#5B4BB7")
"""After Okabe and Ito's palette, darkened until each reads 3:1 on white; dashes differ too."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

DARK = {
    INK: "#E8EDF2",
    MUTED: "#A3B0BD",
    FAINT: "#2E3944",
    CELL: "#222C36",
    TINT: "#235A8A",
    PICK: "#63B3F5",
    BASE: "#F5A35C",
    BAD: "#F58CB8",
    PLAIN: "#7F8C99",
    GROUPS[0]: "#56B4E9",
    GROUPS[1]: "#F0A04B",
    GROUPS[2]: "#3CCB9F",
    GROUPS[3]: "#E39AC6",
    GROUPS[4]: "#E3CF3E",
    GROUPS[5]: "#B3A6F5",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
CLEAR = "rgba(0,0,0,0)"


@dataclass(frozen=True, eq=False)
class Figure:
    """One figure of the page.

    Attributes:
        name: Its id in the page.
        title: Heading.
        caption: One sentence on what to look at.
        alt: What it shows, for those who cannot see it.
        plot: The plotly figure.
        data: The same as a table, for those who read or listen.
    """

    name: str
    title: str
    caption: str
    alt: str
    plot: go.Figure
    data: pd.DataFrame = field(default_factory=pd.DataFrame)


def blank(height: int, *, panels: int = 1, gap: int = 84, **layout: Any) -> go.Figure:
    """Return an empty figure in the house style.

    Args:
        height: In pixels.
        panels: Plots below each other; the i-th has the axes `xi` and `yi` (`x`, `y` the first).
        gap: Pixels between them.
        layout: Further fields of the layout.
    """
    axis = _axis()
    base: dict[str, Any] = {
        "template": go.layout.Template(),
        "height": height,
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "margin": {"l": 56, "r": 24, "t": 16, "b": 48},
        "xaxis": axis,
        "yaxis": axis,
        "hovermode": "closest",
        "modebar": {"bgcolor": CLEAR, "color": PLAIN, "activecolor": INK},
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 12, "color": INK},
        },
    }
    inner = max(height - 16 - 48, 1)
    space = gap / inner
    share = (1 - space * (panels - 1)) / panels
    for i in range(panels if panels > 1 else 0):
        number = "" if i == 0 else str(i + 1)
        top = 1 - i * (share + space)
        base[f"xaxis{number}"] = {**axis, "anchor": f"y{number}"}
        ends = [max(top - share, 0.0), top]  # the last may be rounded to just below 0
        base[f"yaxis{number}"] = {**axis, "anchor": f"x{number}", "domain": ends}
    figure = go.Figure(layout=base)
    figure.update_layout(**layout)
    return figure


def _axis() -> dict[str, Any]:
    return {
        "gridcolor": FAINT,
        "linecolor": FAINT,
        "zeroline": False,
        "tickcolor": FAINT,
        "ticks": "outside",
        "ticklen": 4,
        "title": {"font": {"size": 13, "color": MUTED}, "standoff": 8},
        "tickfont": {"size": 12, "color": MUTED},
        "automargin": True,
    }


def bar(value: Any, low: Any, high: Any, color: str, **style: Any) -> dict[str, Any]:
    """Return error bars from values and their ends, each a series; NaN ends draw nothing."""
    return {
        "type": "data", "symmetric": False, "thickness": 1.3, "width": 3, "color": color,
        "array": (high - value).tolist(), "arrayminus": (value - low).tolist(), **style,
    }  # fmt: skip


def safe(text: str) -> str:
    """Return a name as plotly shows it: its texts are a small HTML."""
    return html.escape(text, quote=False)
