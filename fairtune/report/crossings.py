"""Groups of two attributes at once, small cells suppressed."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from fairtune.evaluation.predictions import CROSS
from fairtune.evaluation.scoring import group_table
from fairtune.report.scored import REPLICATES, Scored, printable
from fairtune.report.words import FEW
from fairtune.study.overview import Overview

MOST = 3
"""Most pairs of attributes that are drawn."""


def crossing_frame(view: Overview, model: Scored) -> pd.DataFrame:
    """Return the AUC of every crossing of two of the study's attributes.

    Columns: `first`, `second` (names of the attributes), `row`, `column` (their groups),
    `value`, `low`, `high` (NaN where the cell may not be shown), `n` (rows; missing in all cells
    of a crossing that has a cell with 1 to 4), `shown`.
    """
    frames = []
    for a, b in list(combinations(view.base.data.attributes, 2))[:MOST]:
        frames.append(_one(view, model, a, b))
    columns = ["first", "second", "row", "column", "value", "low", "high", "n", "shown"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def _one(view: Overview, model: Scored, a: str, b: str) -> pd.DataFrame:
    p, minimum = model.predictions, view.judge.validation.minimum
    first, second = p.attribute(a), p.attribute(b)
    table = group_table(
        p,
        ["auc"],
        [f"{a}*{b}"],
        minimum=minimum,
        threshold=model.threshold,
        floors=False,
        replicates=REPLICATES,
    )
    table["shown"] = printable(table, minimum)
    own = table[table["group"].notna() & (table["metric"] == "auc") & table["target"].isna()]
    by_name = {str(row["group"]): row for row in own.to_dict("records")}
    rows = []
    for row in first.names:
        for column in second.names:
            found = by_name.get(row + CROSS + column, {})
            kept = bool(found.get("shown", False))
            ends = [found[k] if kept else np.nan for k in ("value", "low", "high")]
            rows.append([a, b, row, column, *ends, found.get("n", 0), kept])
    columns = ["first", "second", "row", "column", "value", "low", "high", "n", "shown"]
    frame = pd.DataFrame(rows, columns=columns)
    # One hidden count would follow from the others and the groups' totals.
    if ((frame["n"] > 0) & (frame["n"] < FEW)).any():
        frame["n"] = np.nan
    return frame
