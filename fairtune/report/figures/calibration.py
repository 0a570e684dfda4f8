"""Calibration of the pick per group."""

from __future__ import annotations

from fairtune.report.figure import DASHES, FAINT, GROUPS, Figure, bar, blank, safe
from fairtune.report.tables import Tables
from fairtune.report.words import number


def figure(tables: Tables) -> Figure | None:
    """Draw observed shares against predicted risk; None where no group is large enough."""
    frame = tables.calibration
    if not len(frame):
        return None
    attribute = tables.attributes[0]
    plot = blank(440)
    plot.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": FAINT, "width": 1.5},
        showlegend=False, hoverinfo="skip",
    )  # fmt: skip
    names = list(dict.fromkeys(frame["group"]))
    for i, name in enumerate(names):
        own, color = frame[frame["group"] == name], GROUPS[i % len(GROUPS)]
        plot.add_scatter(
            x=own["predicted"].tolist(),
            y=own["observed"].tolist(),
            mode="lines+markers",
            line={"color": color, "width": 2, "dash": DASHES[i % len(DASHES)]},
            marker={"size": 8, "symbol": i % 6, "color": color},
            error_y=bar(own["observed"], own["low"], own["high"], color, thickness=1),
            name=safe(f"{name}, calibration error {_error(tables, name)}"),
            hovertemplate=f"predicted %{{x:.2f}}, observed %{{y:.2f}}<extra>{safe(name)}</extra>",
        )
    plot.update_xaxes(title_text="predicted risk (mean of the bin)", range=[-0.02, 1.02])
    plot.update_yaxes(title_text="observed share of positives", range=[-0.02, 1.02])
    return Figure(
        "calibration",
        f"Calibration of the pick by {attribute}, {tables.split}",
        "Look at whether a group runs below the diagonal (its risk is overstated) or above it "
        "(understated). Bins hold equally many images of the group, at least 20 where there are "
        "enough; bars are 95 % intervals. The error of a small group reads too high, so compare "
        "groups of similar size only.",
        f"Calibration curves of {len(names)} groups: " + "; ".join(names) + ".",
        plot,
        frame.drop(columns=["n"]),
    )


def _error(tables: Tables, group: str) -> str:
    rows = tables.figures("ece", tables.attributes[0], tables.summary.pick or "")
    row = rows[(rows["group"] == group) & rows["shown"]]
    return number(float(row["value"].iloc[0])) if len(row) == 1 else "not known"
