"""Objectives against each other: every run as a point, which of them nothing beats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fairtune.evaluation.arrays import BoolArray, FloatArray
from fairtune.evaluation.objectives import Objective
from fairtune.report.trials import fairness_name
from fairtune.study.overview import Candidate, Overview
from fairtune.study.rank import DEGENERATE, is_unusable
from fairtune.study.rows import BASELINE, CONFIRM, SEARCH, Row, results

UTILITY = "auc"
NAN = float("nan")


def axes_of(view: Overview) -> tuple[Objective, ...]:
    """Return what is drawn against each other, the primary objective first.

    The study's objectives; where there is one, it (or the worst group's AUC, if it speaks of no
    group) and the overall AUC.
    """
    objectives = tuple(view.judge.objectives)
    if len(objectives) > 1:
        return objectives
    return Objective.parse(fairness_name(view)), Objective.parse(UTILITY)


def point_frame(view: Overview, axes: Sequence[Objective]) -> pd.DataFrame:
    """Return every finished run of search and baselines that is not constant.

    Columns: `phase`, `number` (from 1), `label`, one per axis by its printed name, `feasible` (no
    constraint is violated) and `front`: no feasible run is at least as good on every axis and
    better on one. Values are those of single runs on validation.
    """
    names = [str(axis) for axis in axes]
    found = []
    for phase in (BASELINE, SEARCH):
        for row in results(view.rows[phase]):
            if is_unusable(row.attrs.get(DEGENERATE)):
                continue
            values = _values(view, row)
            found.append(
                {
                    "phase": phase,
                    "number": row.number + 1,
                    "label": str(row.attrs.get("label", "")),
                    **{name: values.get(name, NAN) for name in names},
                    "feasible": all(value <= 0 for value in row.constraints.values()),
                }
            )
    frame = pd.DataFrame(found, columns=["phase", "number", "label", *names, "feasible"])
    frame["feasible"] = frame["feasible"].astype(bool)
    signs = np.array([axis.sign for axis in axes], dtype=np.float64)
    better = frame[names].to_numpy(dtype=np.float64) * signs
    may = frame["feasible"].to_numpy() & np.isfinite(better).all(axis=1)
    frame["front"] = False
    frame.loc[may, "front"] = non_dominated(better[may])
    return frame


def _values(view: Overview, row: Row) -> dict[str, float]:
    stored = {k: float(v) for k, v in row.attrs.items() if isinstance(v, int | float)}
    return stored | dict(zip(map(str, view.judge.objectives), row.values or ()))


def non_dominated(better: FloatArray) -> BoolArray:
    """Return which rows no other row dominates.

    Args:
        better: `(rows, axes)`, larger is better on every axis.
    """
    at_least = np.all(better[None, :, :] >= better[:, None, :], axis=2)
    above = np.any(better[None, :, :] > better[:, None, :], axis=2)
    return np.asarray(~np.any(at_least & above, axis=1))


def objective_frame(view: Overview, candidates: Sequence[Candidate]) -> pd.DataFrame:
    """Return every objective of a study with several, mean over the confirm runs of a recipe.

    Columns: `label`, `seeds`, one per objective by its printed name; recipes that were not
    confirmed are left out, and there are no rows for one objective.
    """
    names = list(map(str, view.judge.objectives))
    columns = ["label", "seeds", *names]
    if len(names) < 2:
        return pd.DataFrame(columns=columns)
    values: dict[str, list[tuple[float, ...]]] = {}
    for row in results(view.rows[CONFIRM]):
        if row.values is not None:
            values.setdefault(row.digest, []).append(row.values)
    rows = [
        [c.label, len(found), *np.mean(found, axis=0).tolist()]
        for c in candidates
        if (found := values.get(c.digest))
    ]
    return pd.DataFrame(rows, columns=columns)


def bar_frame(groups: pd.DataFrame, axes: Sequence[Objective]) -> pd.DataFrame:
    """Return every axis with its interval for the recipes of a group table, on validation.

    Columns: `recipe`; per axis its name, `NAME low` and `NAME high`. Recipes for which an axis
    cannot be computed are left out; ends are NaN where a figure has no interval.

    Args:
        groups: See `scored.group_frame`.
        axes: What to look up.
    """
    columns = ["recipe", *(f"{axis}{end}" for axis in axes for end in ("", " low", " high"))]
    if not len(groups):
        return pd.DataFrame(columns=columns)
    own = groups[(groups["split"] == "validation") & groups["group"].isna()]
    own = own[own["target"].isna()]
    rows = []
    for recipe, frame in own.groupby("recipe", sort=False):
        row: list[object] = [recipe]
        for axis in axes:
            of = frame[frame["metric"] == axis.head]
            no_group = of["attribute"].isna()
            of = of[no_group if axis.attribute is None else of["attribute"] == axis.attribute]
            of = of.dropna(subset=["value"])
            if not len(of):
                break
            row += of[["value", "low", "high"]].iloc[0].tolist()
        if len(row) == len(columns):
            rows.append(row)
    return pd.DataFrame(rows, columns=columns)
