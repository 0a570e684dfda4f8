"""One file per figure: tidy tables in, a plotly figure with its caption out."""

from __future__ import annotations

from collections.abc import Callable

from fairtune.report.figure import Figure
from fairtune.report.figures import (
    benefit,
    calibration,
    crossings,
    effects,
    forest,
    history,
    importance,
    learning,
    masks,
    network,
    operating,
    overtuning,
    roc,
    tradeoff,
)
from fairtune.report.tables import Tables

FIGURES: dict[str, Callable[[Tables], Figure | None]] = {
    "forest": forest.figure,
    "roc": roc.figure,
    "calibration": calibration.figure,
    "operating": operating.figure,
    "benefit": benefit.figure,
    "crossings": crossings.figure,
    "history": history.figure,
    "overtuning": overtuning.figure,
    "tradeoff": tradeoff.figure,
    "learning": learning.figure,
    "network": network.figure,
    "masks": masks.figure,
    "effects": effects.figure,
    "importance": importance.figure,
}
"""Every figure of the page; each is None where there is nothing to show."""
