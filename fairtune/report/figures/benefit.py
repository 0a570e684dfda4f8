"""Is it worth deciding by the model, for each group? Decision curves."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from fairtune.report.figure import DASHES, GROUPS, MUTED, Figure, blank, safe
from fairtune.report.operating import ALL, STATED
from fairtune.report.tables import Tables
from fairtune.report.words import ends, number


def figure(tables: Tables) -> Figure | None:
    """Draw net benefit by threshold, per group; None where no group is large enough."""
    frame = tables.benefit
    names = list(dict.fromkeys(frame["group"])) if len(frame) else []
    groups = [n for n in names if n != ALL]
    if not groups:
        return None
    attribute = tables.attributes[0]
    plot = blank(420)
    plot.add_hline(y=0, line={"color": MUTED, "width": 1.2})
    for i, name in enumerate(groups):
        own, color = frame[frame["group"] == name], GROUPS[i % len(GROUPS)]
        _lines(plot, own, color, DASHES[i % len(DASHES)])
    top = max(float(frame[frame["group"] != ALL][["benefit", "all"]].max().max()), 0.02)
    plot.update_xaxes(title_text="threshold of probability", range=[0, 0.61])
    plot.update_yaxes(
        title_text="net benefit (true positives per patient)", range=[-0.35 * top, 1.08 * top]
    )
    return Figure(
        "benefit",
        f"Net benefit by {attribute}, {tables.split}",
        "Deciding by the model (thick) is worth it for a group only where its line runs above its "
        "own thin dotted line (everyone called positive) and above 0 (nobody called). The "
        "threshold says how many false alarms one finding is worth: 0.10 means nine. It takes "
        "the scores for probabilities, so see the calibration first (Vickers and Elkin 2006).",
        f"Decision curves of {len(groups)} groups from threshold 0.01 to 0.60: "
        + "; ".join(groups)
        + ".",
        plot,
        _data(frame, names),
    )


def _lines(plot: go.Figure, own: pd.DataFrame, color: str, dash: str) -> None:
    name = str(own["group"].iloc[0])
    for column, words, style in (
        ("benefit", "by the model", {"width": 2.4, "dash": dash}),
        ("all", "calling everyone positive", {"width": 1.1, "dash": "dot"}),
    ):
        plot.add_scatter(
            x=own["threshold"].tolist(),
            y=own[column].round(5).tolist(),
            mode="lines",
            line={"color": color, **style},
            name=safe(name),
            legendgroup=safe(name),
            showlegend=column == "benefit",
            hovertemplate=f"at %{{x:.2f}}: %{{y:.3f}}<extra>{safe(name)}, {words}</extra>",
        )


def _data(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    rows = []
    for name in names:
        own = frame[frame["group"] == name]
        for at in own[own["threshold"].isin(STATED)].to_dict("records"):
            told = f"{number(at['benefit'])} {ends(at['low'], at['high'])}".strip()
            rows.append((name, f"{at['threshold']:g}", told, number(at["all"])))
    columns = ["patients", "threshold", "net benefit of the model [95 %]", "of calling everyone"]
    return pd.DataFrame(rows, columns=columns)
