"""The report as data: everything as JSON, the figures of the groups as CSV."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

import fairtune
from fairtune.report.costs_grid import draw_of
from fairtune.report.grid import Grid
from fairtune.report.sections import Section
from fairtune.report.tables import Tables
from fairtune.report.words import count_texts

FRAMES = (
    "candidates", "objectives", "differences", "harm", "gaps", "trials", "points", "bars",
    "importance", "overtuning", "network", "roc", "calibration", "operating", "benefit",
    "crossings", "epochs", "costs", "mitigations", "terms",
)  # fmt: skip
COUNTS = ("n", "patients", "positives")
BLOCK = ("recipe", "split", "brief", "metric", "attribute", "target")


def as_json(tables: Tables, parts: Sequence[Section], watts: float | None = None) -> str:
    """Return the tables of the report as strict JSON: what is not known is null.

    Keys: `fairtune`, `summary`, `objective`, `axes`, `attributes`, `split`, `groups` (see
    `group_figures`), one list of rows per table of `Tables`, `effects`, `watts`, and `tables`,
    the printed ones by caption.

    Args:
        tables: The study.
        parts: See `sections.sections`.
        watts: See `costs_grid.costs`.
    """
    content: dict[str, Any] = {
        "fairtune": fairtune.__version__,
        "summary": asdict(tables.summary),
        "objective": str(tables.objective),
        "axes": [str(axis) for axis in tables.axes],
        "attributes": list(tables.attributes),
        "split": tables.split,
        "groups": _records(group_figures(tables.groups)),
        **{name: _records(getattr(tables, name)) for name in FRAMES},
        "effects": _effects(tables),
        "watts": draw_of(tables, watts)[0],
        "tables": [_grid(grid) for s in parts for part in s.parts for grid in part.grids],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(tables: Tables) -> str:
    """Return the figures of the groups as CSV, see `group_figures`; empty where not known."""
    return group_figures(tables.groups).to_csv(index=False)


def group_figures(groups: pd.DataFrame) -> pd.DataFrame:
    """Return every figure of every group and recipe that may be printed.

    A row per recipe, split, metric and set of rows: `recipe`, `split`, `metric`, `attribute`,
    `group`, `target`, `value`, `low`, `high`, `n`, `patients`, `positives`, `eligible`,
    `floor_mean`, `floor_95`, `base_rate_gap`. Figures of groups that are too small to show are
    missing, and so is each count that would give a hidden one away.
    """
    columns = [
        "recipe", "split", "metric", "attribute", "group", "target", "value", "low", "high",
        *COUNTS, "eligible", "floor_mean", "floor_95", "base_rate_gap",
    ]  # fmt: skip
    if not len(groups):
        return pd.DataFrame(columns=columns)
    frame = groups.copy()
    named = frame["group"].notna()
    hidden = named & ~frame["shown"]
    frame[list(COUNTS)] = frame[list(COUNTS)].astype(float).where(frame[list(COUNTS)] >= 0)
    frame.loc[hidden, ["value", "low", "high"]] = np.nan
    for _, rows in frame[named].groupby(list(BLOCK), dropna=False, sort=False):
        for name in COUNTS:
            texts = count_texts([int(v) for v in groups.loc[rows.index, name]])
            unclear = [
                i for i, text in zip(rows.index, texts) if not text.replace(",", "").isdigit()
            ]
            frame.loc[unclear, name] = np.nan
    frame.loc[hidden, ["patients", "positives"]] = np.nan
    frame[list(COUNTS)] = frame[list(COUNTS)].astype("Int64")
    return frame[columns]


def _effects(tables: Tables) -> dict[str, Any] | None:
    found = tables.effects
    if found is None:
        return None
    return {
        "runs": found.runs,
        "masks": found.recipes,
        "explained_left_out": _plain(found.explained),
        "switches": _records(found.frame),
    }


def _grid(grid: Grid) -> dict[str, Any]:
    rows = [[cell.text for cell in row] for row in grid.rows]
    return {"caption": grid.caption, "columns": list(grid.columns), "rows": rows}


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    records = frame.astype(object).to_dict("records")
    return [{str(k): _plain(v) for k, v in row.items()} for row in records]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return None if value is pd.NA or value is pd.NaT else value
