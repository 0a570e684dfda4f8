"""The figure of every group under the pick and under each baseline."""

from __future__ import annotations

from typing import Any

from fairtune.report.figure import BASE, FAINT, INK, PICK, Figure, bar, blank, safe
from fairtune.report.tables import Tables

SYMBOLS = ("diamond", "square", "triangle-up", "circle-open", "diamond-open", "square-open")


def figure(tables: Tables) -> Figure | None:
    """Draw AUC with its interval per group and recipe, by attribute; None without any."""
    rows = tables.outcome
    if not len(rows):
        return None
    rows = rows[(rows["metric"] == "auc") & rows["shown"] & rows["target"].isna()]
    rows = rows[rows["attribute"].isna() | rows["group"].notna()]
    if not len(rows):
        return None
    groups = [("", "")]
    for name in tables.attributes:
        groups += [(name, g) for g in dict.fromkeys(rows[rows["attribute"] == name]["group"])]
    recipes = list(dict.fromkeys(rows["recipe"]))
    plot = blank(max(220, 90 + len(groups) * (18 + 13 * len(recipes))))
    place = {key: -float(i) for i, key in enumerate(groups)}
    for i, recipe in enumerate(recipes):
        own = rows[rows["recipe"] == recipe]
        ys = [
            place["" if a is None else a, "" if g is None else g]
            + 0.30 * (1 - 2 * i / max(1, len(recipes) - 1)) * (len(recipes) > 1)
            for a, g in zip(own["attribute"], own["group"])
        ]
        plot.add_scatter(x=own["value"].tolist(), y=ys, **_style(tables, recipe, i, own))
    plot.update_xaxes(title_text=f"AUC with 95 % interval ({tables.split})")
    plot.update_yaxes(
        tickvals=list(place.values()),
        ticktext=[safe(f"{a}: {g}") if a else "<b>all patients</b>" for a, g in groups],
        showgrid=False,
        tickfont={"size": 13, "color": INK},
        range=[-len(groups) + 0.4, 0.6],
    )
    for i in range(1, len(groups)):
        plot.add_hline(y=0.5 - i, line={"color": FAINT, "width": 1})
    return Figure(
        "every-group",
        "Every group, pick and baselines",
        "Look at whether any group lies further left under the pick than under a baseline: that "
        "group pays. Overlapping bars mean that these patients cannot tell the recipes apart.",
        f"Dot plot of AUC with intervals for {len(groups)} sets of patients and "
        f"{len(recipes)} recipes; the figures stand in the tables above.",
        plot,
    )


def _style(tables: Tables, recipe: str, i: int, own: Any) -> dict[str, Any]:
    picked = recipe == tables.summary.pick
    color = PICK if picked else BASE
    return {
        "mode": "markers",
        "name": safe(f"{recipe} (pick)" if picked else recipe),
        "marker": {
            "color": color,
            "size": 10 if picked else 8,
            "symbol": "circle" if picked else SYMBOLS[(i - 1) % len(SYMBOLS)],
        },
        "error_x": bar(own["value"], own["low"], own["high"], color),
        "hovertemplate": f"%{{x:.3f}}<extra>{safe(recipe)}</extra>",
    }
