"""What decisions do to each group: sensitivity, missed disease, net benefit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from fairtune.evaluation.arrays import FloatArray, IntArray
from fairtune.evaluation.clusters import quantile, variance_of_mean
from fairtune.evaluation.groups import eligible_groups, group_rows
from fairtune.evaluation.intervals import TAIL, rate_estimate
from fairtune.evaluation.resampling import patient_codes
from fairtune.evaluation.scoring import group_table
from fairtune.evaluation.thresholds import decide
from fairtune.report.scored import REPLICATES, Scored
from fairtune.study.overview import Overview

SPECIFICITY = 0.9
STATED = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Thresholds of probability at which net benefit is told in figures."""
CURVE = tuple(round(0.01 * i, 2) for i in range(1, 61))
ALL = "all patients"


def operating_frame(
    view: Overview, models: Sequence[Scored], attributes: Sequence[str]
) -> pd.DataFrame:
    """Return for every recipe and group what its decisions mean, of a binary table.

    Columns: `recipe`, `attribute`, `group` (both None for all patients), `sensitivity` at 90 %
    specificity over all patients, `missed` per 1,000 of the group (positives below the one
    threshold of the run), each with `_low`, `_high` (Wilson, 95 %); `positives` per 1,000.
    """
    columns = ["recipe", "attribute", "group"]
    for name in ("sensitivity", "missed"):
        columns += [name, f"{name}_low", f"{name}_high"]
    columns.append("positives")
    rows = []
    for model in models:
        if model.predictions.task == "binary":
            rows += _of_model(view, model, attributes)
    frame = pd.DataFrame(rows, columns=columns)
    for name in ("attribute", "group"):
        frame[name] = pd.Series([row[columns.index(name)] for row in rows], dtype=object)
    return frame


def _of_model(view: Overview, model: Scored, attributes: Sequence[str]) -> list[list[object]]:
    p, metric = model.predictions, f"tpr@spec={SPECIFICITY:g}"
    table = group_table(
        p,
        [metric],
        attributes,
        minimum=view.judge.validation.minimum,
        threshold=model.threshold,
        floors=False,
        replicates=REPLICATES,
    )
    table = table[table["metric"] == metric]
    called = decide(p, model.threshold)
    missed = 1000.0 * ((p.label == 1) & ~called)
    rows: list[list[object]] = []
    for attribute, group, members in _sets(view, model, attributes):
        own = table[
            table["attribute"].isna() if attribute is None else table["attribute"] == attribute
        ]
        own = own[own["group"].isna() if group is None else own["group"] == group]
        sensitivity = own[["value", "low", "high"]].iloc[0].tolist()
        rate = rate_estimate(missed[members] / 1000, p.patient[members])
        ends = [1000 * end for end in (rate.value, *rate.bound(TAIL))]
        positives = 1000 * float(p.label[members].mean())
        rows.append([model.label, attribute, group, *sensitivity, *ends, positives])
    return rows


def _sets(
    view: Overview, model: Scored, attributes: Sequence[str]
) -> Iterable[tuple[str | None, str | None, IntArray]]:
    """Yield all rows, then those of every group that is large enough for an AUC."""
    p = model.predictions
    yield None, None, np.arange(len(p))
    for name in attributes:
        groups = p.attribute(name)
        eligible = eligible_groups(p, groups, "auc", view.judge.validation.minimum)
        for code, members in enumerate(group_rows(groups)):
            if eligible[code]:
                yield name, groups.names[code], members


def benefit_frame(view: Overview, model: Scored, attribute: str) -> pd.DataFrame:
    """Return the net benefit of deciding by the score, per group of one attribute.

    Vickers and Elkin (2006): at a threshold of probability t, a patient being called positive
    when the score is at or above t,

        NB(t) = TP / n - FP / n * t / (1 - t),

    in true positives per patient; treating all is the same with everyone called, treating none
    is 0. It takes scores for probabilities, of several folds each of its own model. The ends are
    normal ones, with the variance between patients. Of a binary table only.

    Columns: `group` (`all patients` first), `threshold`, `benefit`, `low`, `high`, `all`.
    """
    rows: list[tuple[str, float, float, float, float, float]] = []
    p = model.predictions
    if p.task == "binary":
        for _, group, members in _sets(view, model, [attribute]):
            label, score = p.label[members], p.score[members]
            for t in CURVE:
                odds = t / (1 - t)
                each = np.where(score >= t, np.where(label == 1, 1.0, -odds), 0.0)
                low, high = _ends(each, p.patient[members])
                prevalence = float(label.mean())
                everyone = prevalence - (1 - prevalence) * odds
                rows.append((group or ALL, t, float(each.mean()), low, high, everyone))
    return pd.DataFrame(rows, columns=["group", "threshold", "benefit", "low", "high", "all"])


def _ends(each: FloatArray, patient: IntArray) -> tuple[float, float]:
    code, patients = patient_codes(patient)
    mean = float(each.mean())
    if patients < 2:
        return float("nan"), float("nan")
    half = quantile(TAIL) * float(np.sqrt(variance_of_mean(each, code)))
    return mean - half, mean + half
