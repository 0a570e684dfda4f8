"""Values with intervals for sets of rows: closed forms where there is one, else the bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fairtune.evaluation.arrays import FloatArray, IntArray
from fairtune.evaluation.groups import unit_weights
from fairtune.evaluation.intervals import (
    TAIL,
    Ends,
    Estimate,
    Pair,
    auc_estimate,
    drawn_estimate,
    drawn_pair,
    gap_interval,
    rate_estimate,
    worst_interval,
)
from fairtune.evaluation.metrics import METRICS, Metric
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Attribute
from fairtune.evaluation.resampling import REPLICATES, patient_codes, resample
from fairtune.evaluation.values import Question


def closed_form(q: Question, metric: Metric, rows: IntArray) -> Estimate | None:
    """Return DeLong (AUC) or Wilson (proportions), None where the bootstrap is needed.

    It is needed for other metrics, for macro means over classes, for values standardised over
    strata and for means over several models.
    """
    p = q.p
    if p.strata is not None or p.models > 1:
        return None
    if metric == METRICS["auc"] and p.task == "binary":
        return auc_estimate(p.label[rows], p.score[rows], p.patient[rows])
    if metric.proportion:
        pairs = metric.row_pairs(p, q.chosen)
        if pairs is not None:
            ((success, among),) = pairs
            kept = rows[among[rows] > 0]
            return rate_estimate(success[kept], p.patient[kept])
    return None


def estimate_set(
    q: Question, metric: Metric, rows: IntArray, *, replicates: int = REPLICATES, seed: int = 0
) -> Estimate:
    """Return a metric of one set of rows with its interval."""
    return Estimates(q, [metric], [rows], replicates, seed).one(metric, 0)


@dataclass(frozen=True, eq=False)
class Estimates:
    """Metrics of several sets of rows, all drawn with the same weights.

    Args:
        q: The question.
        metrics: Base metrics.
        sets: Row positions of each set; a set is asked only for metrics it has enough rows for.
        replicates: Draws of the Bayesian bootstrap.
        seed: Its seed.
    """

    q: Question
    metrics: Sequence[Metric]
    sets: Sequence[IntArray]
    replicates: int = REPLICATES
    seed: int = 0
    _draws: dict[tuple[str, tuple[int, ...]], FloatArray] = field(default_factory=dict, repr=False)

    def point(self, metric: Metric, which: Sequence[int]) -> FloatArray:
        """Return point values of the sets `which`, `(sets,)`."""
        rows = [self.sets[i] for i in which]
        return np.asarray(self.q.values(metric, rows, unit_weights(len(self.q.p)))[:, 0])

    def draws(self, metric: Metric, which: Sequence[int]) -> FloatArray:
        """Return draws of the sets `which`, `(sets, replicates)`."""
        key = (metric.name, tuple(which))
        if key not in self._draws:
            rows = [self.sets[i] for i in which]
            self._draws[key] = resample(
                self.q.p.patient,
                lambda weight: self.q.values(metric, rows, weight),
                self.replicates,
                self.seed,
            )
        return self._draws[key]

    def one(self, metric: Metric, which: int) -> Estimate:
        """Return the estimate of one set."""
        return self.many(metric, [which])[0]

    def many(self, metric: Metric, which: Sequence[int]) -> list[Estimate]:
        """Return the estimates of the sets `which`."""
        closed = [closed_form(self.q, metric, self.sets[i]) for i in which]
        known = [estimate for estimate in closed if estimate is not None]
        if len(known) == len(which):
            return known
        values, draws = self.point(metric, which), self.draws(metric, which)
        return [drawn_estimate(float(v), d) for v, d in zip(values, draws)]

    def pair(self, metric: Metric, which: Sequence[int]) -> Pair:
        """Return paired intervals of the differences between the sets `which`."""
        return drawn_pair(self.point(metric, which), self.draws(metric, which))


def share_patients(q: Question, attribute: Attribute) -> bool:
    """Return whether any patient has rows in two known groups of `attribute`."""
    known = attribute.codes >= 0
    code, patients = patient_codes(q.p.patient[known])
    held = np.unique(code * attribute.size + attribute.codes[known])
    return len(held) > patients


def reduction_interval(
    objective: Objective, parts: Sequence[tuple[Metric, Sequence[Estimate], Pair | None]]
) -> Ends | None:
    """Return the interval of a worst value, a gap or a compound; None for equity scaling.

    Equity-scaled metrics add absolute differences, so their draws are as biased as those of a
    gap, and no rule with known coverage is at hand. Of `eo_diff` the upper end is the larger of
    the two gaps' upper ends, the lower end the larger of their lower ends at half the tail; of
    `eo_avg` both ends are averaged at half the tail.

    Args:
        objective: The reduction.
        parts: Per base metric: the metric, the eligible groups' estimates, and the paired
            interval of differences where groups share patients.
    """
    if objective.reduction == "worst":
        ((metric, groups, _),) = parts
        return worst_interval(groups, higher=metric.better == "higher")
    if objective.reduction != "gap":
        return None
    split = TAIL / len(parts)
    strict = [gap_interval(groups, pair=pair, tail=split) for _, groups, pair in parts]
    if objective.metric == "eo_avg":
        low, high = np.mean(strict, axis=0)
        return float(low), float(high)
    plain = [gap_interval(groups, pair=pair) for _, groups, pair in parts]
    return max(low for low, _ in strict), max(high for _, high in plain)
