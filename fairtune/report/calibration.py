"""Reliability per group, as a tidy table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fairtune.evaluation.arrays import IntArray
from fairtune.evaluation.groups import eligible_groups, group_rows
from fairtune.evaluation.intervals import TAIL, rate_estimate
from fairtune.report.scored import Scored
from fairtune.study.overview import Overview

BINS, PER_BIN = 10, 20


def calibration_frame(view: Overview, model: Scored, attribute: str) -> pd.DataFrame:
    """Return mean score and share of positives in bins of equal mass, per group.

    Of a binary table only. As many bins as leave 20 rows in each, 2 to 10; ends are Wilson's,
    widened where patients repeat. Groups below the study's minimum are left out. Of several
    folds the rows are taken together: a score is read as a probability whichever model gave it.

    Columns: `group`, `predicted`, `observed`, `low`, `high`, `n`.
    """
    p = model.predictions
    rows: list[tuple[str, float, float, float, float, int]] = []
    if p.task == "binary":
        groups = p.attribute(attribute)
        eligible = eligible_groups(p, groups, "ece", view.judge.validation.minimum)
        for code, members in enumerate(group_rows(groups)):
            if not eligible[code]:
                continue
            for part in _bins(members, p.score[members]):
                share = rate_estimate(p.label[part].astype(np.float64), p.patient[part])
                low, high = share.bound(TAIL)
                mean = float(p.score[part].mean())
                rows.append((groups.names[code], mean, share.value, low, high, len(part)))
    columns = ["group", "predicted", "observed", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)


def _bins(
    members: IntArray, score: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> list[IntArray]:
    count = min(BINS, max(2, len(members) // PER_BIN))
    ordered = members[np.argsort(score, kind="stable")]
    return [np.asarray(part) for part in np.array_split(ordered, count)]
