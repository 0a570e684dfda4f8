"""Receiver operating characteristic per group, as a tidy table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fairtune.evaluation.arrays import FloatArray, IntArray
from fairtune.evaluation.groups import eligible_groups, group_rows
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.thresholds import decide
from fairtune.report.scored import Scored
from fairtune.report.words import FEW
from fairtune.study.overview import Overview

GRID = np.linspace(0.0, 1.0, 101)


def roc_frame(view: Overview, model: Scored, attribute: str) -> pd.DataFrame:
    """Return the curve of every group of `attribute` that is large enough.

    Sensitivity at 101 false-positive rates, by linear interpolation between the points of the
    empirical curve, averaged over classes, targets or folds where there are several. Of a binary
    table one more row per group, `operating`, holds the group's rates at the one threshold.

    Columns: `group`, `kind` (`curve` or `operating`), `fpr`, `tpr`.
    """
    p = model.predictions
    groups = p.attribute(attribute)
    eligible = eligible_groups(p, groups, "auc", view.judge.validation.minimum)
    if eligible.ndim == 2:
        eligible = np.asarray(eligible.all(axis=0))
    rows: list[tuple[str, str, float, float]] = []
    called = decide(p, model.threshold) if p.task == "binary" else None
    for code, members in enumerate(group_rows(groups)):
        if not eligible[code] or not _enough(p, members):
            continue
        name = groups.names[code]
        curve = np.mean([_curve(label, score) for label, score in _views(p, members)], axis=0)
        rows += [(name, "curve", float(x), float(y)) for x, y in zip(GRID, curve)]
        if called is not None:
            chosen, label = called[members], p.label[members]
            fpr, tpr = (float(chosen[label == value].mean()) for value in (0, 1))
            rows.append((name, "operating", fpr, tpr))
    return pd.DataFrame(rows, columns=["group", "kind", "fpr", "tpr"])


def _views(p: Predictions, members: IntArray) -> list[tuple[IntArray, FloatArray]]:
    if p.models > 1:  # scores of different models are not comparable
        own = [np.flatnonzero(p.model == k) for k in range(p.models)]
        mine = [np.flatnonzero(np.isin(rows, members)) for rows in own]
        return [view for one, rows in zip(p.per_model(), mine) for view in _views(one, rows)]
    if p.task == "binary":
        return [(p.label[members], p.score[members])]
    if p.task == "multilabel":
        return [(p.label[members, j], p.score[members, j]) for j in range(p.label.shape[1])]
    return [
        ((p.label[members] == k).astype(np.int64), p.score[members, k]) for k in range(p.classes)
    ]


def _enough(p: Predictions, members: IntArray) -> bool:
    return all(
        min((label == 1).sum(), (label == 0).sum()) >= FEW for label, _ in _views(p, members)
    )


def _curve(label: IntArray, score: FloatArray) -> FloatArray:
    """Return the sensitivity at each false-positive rate of the grid."""
    cuts = np.unique(score)[::-1]
    tpr = np.searchsorted(np.sort(-score[label == 1]), -cuts, side="right") / (label == 1).sum()
    fpr = np.searchsorted(np.sort(-score[label == 0]), -cuts, side="right") / (label == 0).sum()
    # Where several points share a rate, `interp` takes the last: the upper end of the rise.
    return np.asarray(np.interp(GRID, np.r_[0.0, fpr, 1.0], np.r_[0.0, tpr, 1.0]))
