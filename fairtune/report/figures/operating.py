"""What decisions do to each group: sensitivity at a stated specificity, and missed disease."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from fairtune.report.figure import BASE, FAINT, INK, PICK, Figure, bar, blank, safe
from fairtune.report.figures.forest import SYMBOLS
from fairtune.report.operating import ALL
from fairtune.report.tables import Tables
from fairtune.report.words import with_ends

PANELS = (
    ("sensitivity", "sensitivity at 90 % specificity"),
    ("missed", "missed positives per 1,000 images"),
)


def figure(tables: Tables) -> Figure | None:
    """Draw both figures per group and recipe; None where there are no decisions of two classes."""
    frame = tables.operating
    if not len(frame):
        return None
    groups = list(dict.fromkeys(map(_name, frame["attribute"], frame["group"])))
    recipes = list(dict.fromkeys(frame["recipe"]))
    plot = blank(150 + 2 * len(groups) * (18 + 13 * len(recipes)), panels=2)
    for i, (name, words) in enumerate(PANELS):
        number = "" if i == 0 else str(i + 1)
        for j, recipe in enumerate(recipes):
            own = frame[frame["recipe"] == recipe]
            _points(plot, tables, own, (name, number, j, len(recipes)), groups)
        _axes(plot, number, words, groups)
    return Figure(
        "operating",
        "What the decisions mean",
        "Above: the share of each group's positives that is found when the threshold is set so "
        "that nine in ten negatives of all patients are let go. Below: positives that the "
        "threshold in use misses, per 1,000 images of the group; it grows with how frequent the "
        "finding is in these data, so compare recipes within a group first.",
        f"Dot plots for {len(groups)} sets of patients and {len(recipes)} recipes: sensitivity at "
        "90 % specificity, and missed positives per 1,000 images.",
        plot,
        _data(frame),
    )


def _name(attribute: str | None, group: str | None) -> str:
    return ALL if group is None else f"{attribute}: {group}"


def _points(
    plot: go.Figure,
    tables: Tables,
    own: pd.DataFrame,
    place: tuple[str, str, int, int],
    groups: list[str],
) -> None:
    name, number, i, count = place
    recipe = str(own["recipe"].iloc[0])
    picked = recipe == tables.summary.pick
    color = PICK if picked else BASE
    shift = 0.30 * (1 - 2 * i / max(1, count - 1)) * (count > 1)
    plot.add_scatter(
        x=own[name].tolist(),
        y=[shift - groups.index(_name(a, g)) for a, g in zip(own["attribute"], own["group"])],
        error_x=bar(own[name], own[f"{name}_low"], own[f"{name}_high"], color),
        mode="markers",
        marker={
            "color": color,
            "size": 10 if picked else 8,
            "symbol": "circle" if picked else SYMBOLS[(i - 1) % len(SYMBOLS)],
        },
        name=safe(f"{recipe} (pick)" if picked else recipe),
        legendgroup=safe(recipe),
        showlegend=number == "",
        xaxis=f"x{number}",
        yaxis=f"y{number}",
        hovertemplate=f"%{{x:.3~g}}<extra>{safe(recipe)}</extra>",
    )


def _axes(plot: go.Figure, number: str, words: str, groups: list[str]) -> None:
    plot.update_layout(
        {
            f"xaxis{number}": {"title": {"text": words}},
            f"yaxis{number}": {
                "tickvals": [-i for i in range(len(groups))],
                "ticktext": [safe(g) if i else f"<b>{safe(g)}</b>" for i, g in enumerate(groups)],
                "showgrid": False,
                "tickfont": {"size": 13, "color": INK},
                "range": [-len(groups) + 0.4, 0.6],
            },
        }
    )
    for i in range(1, len(groups)):
        plot.add_shape(
            type="line", xref=f"x{number} domain", yref=f"y{number}", x0=0, x1=1,
            y0=0.5 - i, y1=0.5 - i, line={"color": FAINT, "width": 1},
        )  # fmt: skip


def _data(frame: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame({"recipe": frame["recipe"]})
    table["patients"] = list(map(_name, frame["attribute"], frame["group"]))
    table["sensitivity at 90 % specificity"] = [
        with_ends(*ends)
        for ends in zip(*(frame[f"sensitivity{e}"] for e in ("", "_low", "_high")))
    ]
    table["missed per 1,000"] = [
        f"{value:.0f} [{low:.0f}, {high:.0f}]"
        for value, low, high in zip(*(frame[f"missed{e}"] for e in ("", "_low", "_high")))
    ]
    table["positives per 1,000"] = [f"{value:.0f}" for value in frame["positives"]]
    return table
