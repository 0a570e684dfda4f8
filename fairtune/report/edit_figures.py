"""The figures of an assessment of an edit: what it looks like, and how it was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairtune.experiment.assessed import FROZEN, RETRAINED, Assessment
from fairtune.report.figure import BASE, CELL, MUTED, PICK, PLAIN, Figure, bar, blank, safe

SIDE = 380
SHOWN = 256
"""Cells along a side of the picture at most; a finer edit is averaged over blocks of pixels."""
CHANNELS = ("red", "green", "blue")


def arms(found: Assessment) -> Figure:
    """Draw the AUC of both heads that read the attribute, by arm."""
    plot = blank(90 + 46 * len(found.arms))
    names = [arm.name for arm in found.arms]
    for figure, words, color, symbol, shift in (
        (RETRAINED, "re-trained on what the arm sees", PICK, "circle", 0.14),
        (FROZEN, "fitted on unedited images", BASE, "circle-open", -0.14),
    ):
        told = pd.DataFrame(
            [
                {"value": f.value, "low": f.low, "high": f.high}
                for f in (arm.figures[figure] for arm in found.arms)
            ]
        )
        plot.add_scatter(
            x=told["value"].tolist(),
            y=[shift - i for i in range(len(names))],
            mode="markers",
            name=words,
            marker={"color": color, "size": 9, "symbol": symbol},
            error_x=bar(told["value"], told["low"], told["high"], color),
            hovertemplate=f"%{{x:.3f}}<extra>{words}</extra>",
        )
    plot.add_vline(x=0.5, line={"color": MUTED, "dash": "dot", "width": 1})
    low = min([0.45, *(a.figures[f].low for a in found.arms for f in (FROZEN, RETRAINED))])
    plot.update_xaxes(
        title_text=f"AUC of a head that reads {safe(found.attribute)}, 95 % interval",
        range=[max(0.0, low - 0.02), 1.02],
    )
    plot.update_yaxes(
        tickvals=[-i for i in range(len(names))], ticktext=names, showgrid=False,
        range=[-len(names) + 0.5, 0.5],
    )  # fmt: skip
    return Figure(
        "edit-arms",
        f"Who still reads {found.attribute}",
        "Look at the filled points: a head that is fitted again on edited images. Where they stay "
        "at the right, the attribute is in the images still, whatever the open points do.",
        f"Dot plot of two AUCs with intervals for {len(names)} arms; the figures stand above.",
        plot,
    )


def picture(found: Assessment) -> Figure:
    """Draw the edit of an assessment."""
    return drawn(found.picture, found.arm("edit").norms)


def drawn(added: NDArray[np.float32], norms: Mapping[str, float]) -> Figure:
    """Draw what is added to every pixel, on a colour scale that is symmetric about 0.

    Args:
        added: `(1 or c, side, side)` in 1/255.
        norms: See `Edit.norms`.
    """
    values = _coarse(added)
    top = float(np.abs(values).max()) or 1.0
    count = len(values)
    gap = 0.04
    width = (1 - gap * (count - 1)) / count
    plot = blank(SIDE + 60)
    for i, channel in enumerate(values):
        axis = "" if i == 0 else str(i + 1)
        plot.add_heatmap(
            z=np.round(channel, 2).tolist(),
            zmin=-top,
            zmax=top,
            colorscale=[[0, PICK], [0.5, CELL], [1, BASE]],
            showscale=i == count - 1,
            colorbar={"title": {"text": "1/255"}, "thickness": 14, "outlinewidth": 0},
            xaxis=f"x{axis}",
            yaxis=f"y{axis}",
            hovertemplate="%{z:.2f} / 255<extra></extra>",
        )
        start = i * (width + gap)
        bare = {"showgrid": False, "showticklabels": False, "ticks": "", "zeroline": False}
        name = CHANNELS[i] if count == len(CHANNELS) else ""
        title = {"text": name, "font": {"size": 13, "color": MUTED}, "standoff": 8}
        side = {**bare, "domain": [start, start + width], "title": title}
        plot.update_layout(
            {
                f"xaxis{axis}": {**side, "anchor": f"y{axis}", "constrain": "domain"},
                f"yaxis{axis}": {
                    **bare,
                    "anchor": f"x{axis}",
                    "autorange": "reversed",
                    "scaleanchor": f"x{axis}",
                    "constrain": "domain",
                },
            }
        )
    return Figure(
        "edit-picture",
        "What is added",
        f"Added to every image: root mean square {norms['rms']:.2f}, at most "
        f"{norms['linf']:.2f} levels of 255 in a pixel. Blue darkens, orange brightens."
        + _coarsened(added),
        f"Heat map of the edit, {added.shape[-1]} cells wide, from {-top:.1f} to "
        f"{top:.1f} of 255.",
        plot,
    )


def trace(found: Assessment) -> Figure | None:
    """Draw how the edit of an assessment was found; None where nothing was searched."""
    return followed(found.trace)


def followed(steps: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Draw loss and size by query; None where nothing was searched.

    Args:
        steps: See `Learned.trace`.
    """
    rows = pd.DataFrame(list(steps))
    if not len(rows) or rows["loss"].notna().sum() == 0:
        return None
    plot = blank(420, panels=2)
    known = rows.dropna(subset=["loss"])
    plot.add_scatter(
        x=known["queries"].tolist(), y=known["loss"].tolist(), mode="markers",
        name="loss of a batch", marker={"color": PLAIN, "size": 4},
        hovertemplate="%{y:.4f} after %{x} queries<extra>one batch</extra>",
    )  # fmt: skip
    smooth = known["loss"].ewm(halflife=max(1.0, len(known) / 20)).mean()
    plot.add_scatter(
        x=known["queries"].tolist(), y=smooth.tolist(), mode="lines", name="running mean",
        line={"color": PICK, "width": 2.2},
        hovertemplate="%{y:.4f}<extra>running mean</extra>",
    )  # fmt: skip
    plot.add_scatter(
        x=rows["queries"].tolist(), y=rows["rms"].tolist(), mode="lines", xaxis="x2", yaxis="y2",
        line={"color": BASE, "width": 2.2}, showlegend=False,
        hovertemplate="%{y:.2f} / 255<extra>root mean square</extra>",
    )  # fmt: skip
    plot.update_layout(
        xaxis_title_text="", yaxis_title_text="loss", xaxis2_title_text="queries",
        yaxis2_title_text="RMS, 1/255", yaxis2_rangemode="tozero",
    )  # fmt: skip
    return Figure(
        "edit-trace",
        "How it was found",
        "Look at whether the loss still falls at the end: then more queries would have helped. It "
        "is that of training batches, against heads that may have been fitted anew in between.",
        f"Loss by query over {len(rows)} steps, and below it the size of the edit.",
        plot,
    )


def _coarse(values: np.ndarray) -> np.ndarray:
    block = -(-values.shape[-1] // SHOWN)
    if block == 1:
        return values
    side = values.shape[-1] // block * block
    cut = values[:, :side, :side]
    shape = (len(values), side // block, block, side // block, block)
    return np.asarray(cut.reshape(shape).mean(axis=(2, 4)))


def _coarsened(values: np.ndarray) -> str:
    block = -(-values.shape[-1] // SHOWN)
    return "" if block == 1 else f" Drawn as means of {block} by {block} pixels."
