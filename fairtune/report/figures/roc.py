"""ROC of the pick per group."""

from __future__ import annotations

import pandas as pd

from fairtune.report.figure import DASHES, FAINT, GROUPS, Figure, blank, safe
from fairtune.report.tables import Tables


def figure(tables: Tables) -> Figure | None:
    """Draw the curve of every group that is large enough; None when none is."""
    if not len(tables.roc):
        return None
    attribute = tables.attributes[0]
    plot = blank(500, hovermode="closest")
    plot.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": FAINT, "width": 1.5},
        showlegend=False, hoverinfo="skip",
    )  # fmt: skip
    names = list(dict.fromkeys(tables.roc["group"]))
    for i, name in enumerate(names):
        own = tables.roc[tables.roc["group"] == name]
        curve, cut = own[own["kind"] == "curve"], own[own["kind"] == "operating"]
        color = GROUPS[i % len(GROUPS)]
        plot.add_scatter(
            x=curve["fpr"].tolist(),
            y=curve["tpr"].tolist(),
            mode="lines",
            line={"color": color, "width": 2.2, "dash": DASHES[i % len(DASHES)]},
            name=safe(f"{name}, AUC {_auc(tables, name)}"),
            hovertemplate="false positives %{x:.2f}, sensitivity %{y:.2f}"
            f"<extra>{safe(name)}</extra>",
        )
        if len(cut):
            plot.add_scatter(
                x=cut["fpr"].tolist(),
                y=cut["tpr"].tolist(),
                mode="markers",
                marker={"size": 11, "color": color, "symbol": i % 6},
                showlegend=False,
                hovertemplate="at the threshold: false positives %{x:.2f}, sensitivity %{y:.2f}"
                f"<extra>{safe(name)}</extra>",
            )
    plot.update_xaxes(title_text="false-positive rate", range=[-0.01, 1.01], constrain="domain")
    plot.update_yaxes(
        title_text="sensitivity", range=[-0.01, 1.01], scaleanchor="x", constrain="domain"
    )
    marks = (tables.roc["kind"] == "operating").any()
    point = " The mark on each curve is where the one threshold, the same for all, puts the group."
    return Figure(
        "roc",
        f"ROC of the pick by {attribute}, {tables.split}",
        "Look at which curve runs lowest, and how far the marks lie apart: groups on different "
        "points get different shares of missed findings and false alarms."
        + (point if marks else " Curves are means over classes."),
        f"ROC curves of {len(names)} groups: " + "; ".join(names) + ".",
        plot,
        _data(tables, names),
    )


def _auc(tables: Tables, group: str) -> str:
    rows = tables.figures("auc", tables.attributes[0], tables.summary.pick or "")
    row = rows[(rows["group"] == group) & rows["shown"]]
    return f"{row['value'].iloc[0]:.3f}" if len(row) == 1 else "mean"


def _data(tables: Tables, names: list[str]) -> pd.DataFrame:
    cuts = tables.roc[tables.roc["kind"] == "operating"].set_index("group")
    columns = {"group": names, "AUC": [_auc(tables, n) for n in names]}
    for name, key in (("sensitivity at the threshold", "tpr"), ("false-positive rate", "fpr")):
        columns[name] = [cuts[key].get(n, float("nan")) for n in names]
    return pd.DataFrame(columns)
