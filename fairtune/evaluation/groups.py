"""Which groups count: eligibility from labels and attributes of the split alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fairtune.errors import DataError
from fairtune.evaluation.arrays import AnyArray, BoolArray, FloatArray, IntArray
from fairtune.evaluation.metrics import Metric
from fairtune.evaluation.metrics import metric as base_metric
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.rules import GroupMinimum


@dataclass(frozen=True)
class Counts:
    """What a set of rows holds.

    Args:
        n: Rows.
        patients: Distinct patients.
        positives: Rows of class 1; of the rarest class for a multi-class table.
        negatives: Rows of class 0; of all but the most frequent class for a multi-class table.
        effective: Effective number of patients, (sum n)^2 / sum n^2 over rows per patient.
    """

    n: int
    patients: int
    positives: int
    negatives: int
    effective: float

    def meets(self, metric: Metric, minimum: GroupMinimum) -> bool:
        """Return whether there is enough here for `metric`."""
        return (
            self.n >= minimum.n
            and ("positives" not in metric.needs or self.positives >= minimum.positives)
            and ("negatives" not in metric.needs or self.negatives >= minimum.negatives)
        )

    def __str__(self) -> str:
        return f"{self.n} rows, {self.positives} positives, {self.negatives} negatives"


def count(p: Predictions, rows: AnyArray | None = None) -> Counts:
    """Return the counts of the rows of a binary or multi-class table; all when left out."""
    label = p.label if rows is None else p.label[rows]
    patient = p.patient if rows is None else p.patient[rows]
    n = len(label)
    per_patient = np.unique(patient, return_counts=True)[1].astype(np.float64)
    effective = float(per_patient.sum() ** 2 / (per_patient**2).sum()) if n else 0.0
    if p.task == "multiclass":
        per_class = np.bincount(label, minlength=p.classes)
        positives, negatives = int(per_class.min()), int(n - per_class.max())
    else:
        positives = int((label == 1).sum())
        negatives = n - positives
    return Counts(n, len(per_patient), positives, negatives, effective)


@dataclass(frozen=True, eq=False)
class Cell:
    """One stratum: its rows and the weight of its values in the average."""

    name: str | None
    rows: IntArray
    weight: float


def cells(p: Predictions, metric: Metric, minimum: GroupMinimum) -> list[Cell]:
    """Return the strata that `metric` is computed within; the whole table when there are none.

    A stratum is used when all its rows together meet the minimum; its weight is its share of the
    rows of the used strata. Rows of unknown stratum are in none.

    Raises:
        DataError: No stratum meets the minimum.
    """
    if p.strata is None:
        return [Cell(None, np.arange(len(p)), 1.0)]
    rows = [np.flatnonzero(p.strata.codes == code) for code in range(p.strata.size)]
    found = [(name, r, count(p, r)) for name, r in zip(p.strata.names, rows) if len(r)]
    used = [(name, r) for name, r, c in found if c.meets(metric, minimum)]
    if not used:
        raise DataError(
            f"no stratum of {p.strata.name} has enough rows for {metric.name}",
            found="; ".join(f"{name}: {c}" for name, _, c in found),
            allowed=f"at least {minimum}",
        )
    total = sum(len(r) for _, r in used)
    return [Cell(name, r, len(r) / total) for name, r in used]


def group_rows(attribute: Attribute) -> list[IntArray]:
    """Return the row positions of each named group."""
    return [np.flatnonzero(attribute.codes == code) for code in range(attribute.size)]


def eligible_groups(
    p: Predictions, attribute: str | Attribute, metric: str | Metric, minimum: GroupMinimum
) -> BoolArray:
    """Return which groups have enough rows, positives and negatives for `metric`.

    A function of labels and attributes only, so that the same groups count in every trial, epoch
    and baseline. With strata a group must meet the minimum in every used stratum.

    Returns:
        `(groups,)`, or `(targets, groups)` for a multi-label table.

    Raises:
        DataError: An unknown attribute.
        ConfigError: An unknown metric.
    """
    found = p.attribute(attribute) if isinstance(attribute, str) else attribute
    asked = base_metric(metric) if isinstance(metric, str) else metric
    if p.task == "multilabel":
        return np.stack([eligible_groups(one, found, asked, minimum) for one in p.per_target()])
    return np.array([supports(p, rows, asked, minimum) for rows in group_rows(found)], dtype=bool)


def supports(p: Predictions, rows: IntArray, metric: Metric, minimum: GroupMinimum) -> bool:
    """Return whether `rows` of a binary or multi-class table meet the minimum.

    That is in every stratum, or with at least one of several models.
    """
    if p.models > 1:
        return len(models_of(p, rows, metric, minimum)) > 0
    if p.strata is None:
        return count(p, rows).meets(metric, minimum)
    inside = np.zeros(len(p), dtype=np.bool_)
    inside[rows] = True
    return all(
        count(p, cell.rows[inside[cell.rows]]).meets(metric, minimum)
        for cell in cells(p, metric, minimum)
    )


def models_of(p: Predictions, rows: IntArray, metric: Metric, minimum: GroupMinimum) -> list[int]:
    """Return the models that scored enough of `rows` for `metric`: they speak for these rows."""
    model = p.model[rows]
    return [k for k in range(p.models) if count(p, rows[model == k]).meets(metric, minimum)]


def lacking(p: Predictions, attribute: str, metric: str, minimum: GroupMinimum) -> dict[str, int]:
    """Return eligible groups with the number of models that have too few of their rows.

    The value of such a group is that of the other models; of a multi-label table the largest
    number over its targets is given.

    Args:
        p: Predictions of several models, each on rows of its own.
        attribute: Attribute or crossing.
        metric: A base metric.
        minimum: What a group must have.
    """
    asked, found = base_metric(metric), dict[str, int]()
    for one in p.per_target():
        groups = one.attribute(attribute)
        for name, rows in zip(groups.names, group_rows(groups)):
            absent = one.models - len(models_of(one, rows, asked, minimum))
            if 0 < absent < one.models:
                found[name] = max(absent, found.get(name, 0))
    return found


def described(p: Predictions, attribute: Attribute) -> str:
    """Return the groups with their counts as one line, for messages."""
    return "; ".join(
        f"{name}: {count(p, rows)}" for name, rows in zip(attribute.names, group_rows(attribute))
    )


def unit_weights(n: int) -> FloatArray:
    """Return the `(n, 1)` weights that make a weighted metric the plain one."""
    return np.ones((n, 1))
