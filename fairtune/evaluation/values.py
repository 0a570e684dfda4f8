"""Objectives and group values for many weightings of the same rows: the one path of every figure.

Point values are the case of one column of ones; resampling passes one column per replicate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fairtune.errors import DataError
from fairtune.evaluation.arrays import BoolArray, FloatArray, IntArray
from fairtune.evaluation.groups import (
    Cell,
    cells,
    count,
    described,
    eligible_groups,
    group_rows,
    models_of,
    supports,
    unit_weights,
)
from fairtune.evaluation.metrics import Metric
from fairtune.evaluation.objectives import COMPOUNDS, Objective, Reduction
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.rules import GroupMinimum, Threshold
from fairtune.evaluation.thresholds import FOLDS, decide

BARE = GroupMinimum(1, 1, 1)
"""What an overall figure needs for being defined."""


@dataclass(frozen=True, eq=False)
class Question:
    """A binary or multi-class table with the decisions made on it.

    Args:
        p: The table.
        chosen: `(n,)` rows called positive; None where no metric reads decisions.
        minimum: What a group must have.
        target: Its name in a multi-label table.
    """

    p: Predictions
    chosen: BoolArray | None
    minimum: GroupMinimum
    target: str | None = None
    _eligible: dict[tuple[str, str], BoolArray] = field(default_factory=dict, repr=False)
    _single: list[Single] = field(default_factory=list, repr=False)

    def values(self, metric: Metric, rows: Sequence[IntArray], weight: FloatArray) -> FloatArray:
        """Return `metric` for sets of rows, `(sets, r)`, standardised over strata if any.

        Of several models it is computed for each and averaged over those with enough of the rows.

        Args:
            metric: A base metric.
            rows: Positions of each set; every set holds what the metric needs in every stratum.
            weight: `(n, r)`.
        """
        total = np.zeros((len(rows), weight.shape[1]))
        if self.p.models > 1:
            return self._averaged(metric, rows, weight, total)
        if self.p.strata is None:
            return total + metric.values(self.p, self.chosen, rows, weight)
        for cell in self.cells(metric):
            inside = np.zeros(len(self.p), dtype=np.bool_)
            inside[cell.rows] = True
            here = [r[inside[r]] for r in rows]
            total += cell.weight * metric.values(self.p, self.chosen, here, weight)
        return total

    def _averaged(
        self, metric: Metric, rows: Sequence[IntArray], weight: FloatArray, total: FloatArray
    ) -> FloatArray:
        speaking = [self.speaking(metric, r) for r in rows]
        for k, single in enumerate(self._singles()):
            mine = [i for i, models in enumerate(speaking) if k in models]
            if not mine:
                continue
            local = [single.local(rows[i]) for i in mine]
            found = metric.values(single.p, single.chosen, local, weight[single.rows])
            share = np.array([len(speaking[i]) for i in mine], dtype=np.float64)
            total[mine] += found / share[:, None]
        return total

    def speaking(self, metric: Metric, rows: IntArray) -> list[int]:
        """Return the models whose figures are averaged for a set of rows.

        Those with enough of them; for what is asked without a minimum, where the metric is
        defined.
        """
        whole = len(rows) == len(self.p)
        found = [] if whole else models_of(self.p, rows, metric, self.minimum)
        return found or models_of(self.p, rows, metric, BARE)

    def _singles(self) -> list[Single]:
        if not self._single:
            for k, one in enumerate(self.p.per_model()):
                rows = np.flatnonzero(self.p.model == k)
                chosen = None if self.chosen is None else self.chosen[rows]
                self._single.append(Single(rows, one, chosen))
        return self._single

    def overall(self, metric: Metric, weight: FloatArray) -> FloatArray:
        """Return `metric` on all rows, `(r,)`.

        Raises:
            DataError: A class the metric needs is absent.
        """
        if not count(self.p).meets(metric, BARE):
            raise DataError(f"{metric.name} is not defined here", found=str(count(self.p)))
        return np.asarray(self.values(metric, [np.arange(len(self.p))], weight)[0])

    def eligible(self, metric: Metric, attribute: Attribute) -> BoolArray:
        """Return which groups count for `metric`, `(groups,)`."""
        key = (metric.name, attribute.name)
        if key not in self._eligible:
            self._eligible[key] = eligible_groups(self.p, attribute, metric, self.minimum)
        return self._eligible[key]

    def supports_rows(self, metric: Metric, rows: IntArray) -> bool:
        """Return whether a set of rows has enough for `metric`."""
        return supports(self.p, rows, metric, self.minimum)

    def supports(self, objective: Objective) -> bool:
        """Return whether the objective is defined here; labels and attributes alone decide."""
        if objective.attribute is None:
            return all(count(self.p).meets(part, BARE) for part in objective.parts)
        attribute = self.p.attribute(objective.attribute)
        return all(self.eligible(part, attribute).sum() >= 2 for part in objective.parts)

    def needed(self, objective: Objective, metric: Metric) -> list[IntArray]:
        """Return the sets of rows that must keep their classes for the objective to be defined."""
        sets = [np.arange(len(self.p))] if objective.reduction != "gap" else []
        if objective.attribute is not None:
            attribute = self.p.attribute(objective.attribute)
            eligible = self.eligible(metric, attribute)
            sets += [rows for rows, e in zip(group_rows(attribute), eligible) if e]
        if self.p.models > 1:
            return [
                rows[self.p.model[rows] == k] for rows in sets for k in self.speaking(metric, rows)
            ]
        if self.p.strata is None:
            return sets
        inside = [np.isin(np.arange(len(self.p)), c.rows) for c in self.cells(metric)]
        return [rows[within[rows]] for rows in sets for within in inside]

    def cells(self, metric: Metric) -> list[Cell]:
        """Return the strata `metric` is computed within."""
        return cells(self.p, metric, self.minimum)

    def parts(self, objective: Objective, weight: FloatArray) -> list[Part]:
        """Return the group values an objective is reduced from, one part per base metric.

        Raises:
            DataError: Fewer than two eligible groups.
        """
        attribute = None if objective.attribute is None else self.p.attribute(objective.attribute)
        return [self._part(objective, metric, attribute, weight) for metric in objective.parts]

    def _part(
        self, objective: Objective, metric: Metric, attribute: Attribute | None, weight: FloatArray
    ) -> Part:
        overall = np.empty(0)
        if attribute is None or objective.reduction.startswith("es"):
            overall = self.overall(metric, weight)
        if attribute is None:
            return Part(metric, overall, np.empty((0, weight.shape[1])), ())
        eligible = self.eligible(metric, attribute)
        if eligible.sum() < 2:
            raise DataError(
                f"{objective} needs at least two groups with enough rows, found {eligible.sum()}",
                found=described(self.p, attribute),
                allowed=f"groups with at least {self.minimum}",
                todo="lower min_group, merge groups, or choose another attribute",
            )
        codes = np.flatnonzero(eligible)
        rows = group_rows(attribute)
        groups = self.values(metric, [rows[code] for code in codes], weight)
        return Part(metric, overall, groups, tuple(attribute.names[code] for code in codes))


@dataclass(frozen=True, eq=False)
class Single:
    """The rows of one of several models.

    Args:
        rows: Their positions in the whole table, ascending.
        p: The rows themselves.
        chosen: Which of them are called positive.
    """

    rows: IntArray
    p: Predictions
    chosen: BoolArray | None

    def local(self, rows: IntArray) -> IntArray:
        """Return the positions here of those of `rows` that this model scored."""
        return np.flatnonzero(np.isin(self.rows, rows))


@dataclass(frozen=True, eq=False)
class Part:
    """One base metric of an objective.

    Args:
        metric: The metric.
        overall: `(r,)`; empty where the reduction does not look at it.
        groups: `(eligible groups, r)`.
        names: Names of the eligible groups.
    """

    metric: Metric
    overall: FloatArray
    groups: FloatArray
    names: tuple[str, ...]


def questions(
    p: Predictions,
    objectives: Sequence[Objective] | None,
    minimum: GroupMinimum,
    threshold: Threshold,
    folds: int = FOLDS,
    seed: int = 0,
) -> list[Question]:
    """Return one question per target, decided at `threshold` if any objective reads decisions.

    Args:
        p: The predictions.
        objectives: What will be asked; None when decisions are needed in any case.
        minimum: What a group must have.
        threshold: A rule, cross-fitted on patients, or frozen numbers.
        folds: Folds of the cross-fit.
        seed: Seed of the folds.
    """
    wanted = objectives is None or any(objective.needs_threshold for objective in objectives)
    chosen = decide(p, threshold, folds, seed) if wanted and p.task != "multiclass" else None
    if p.task != "multilabel":
        return [Question(p, chosen, minimum)]
    return [
        Question(one, None if chosen is None else chosen[:, j], minimum, p.targets[j])
        for j, one in enumerate(p.per_target())
    ]


def objective_values(
    asked: Sequence[Question], objective: Objective, weight: FloatArray | None = None
) -> FloatArray:
    """Return an objective per replicate, `(r,)`.

    Of several targets each is reduced over its own groups and the results are averaged: a gap in
    favour of one group on one target never cancels a gap against it on another. Targets whose
    labels leave fewer than two eligible groups are left out.

    Args:
        asked: The questions of one table.
        objective: What to compute.
        weight: `(n, r)`; one column of ones when left out.

    Raises:
        DataError: No target supports the objective.
    """
    if weight is None:
        weight = unit_weights(len(asked[0].p))
    used = [q for q in asked if q.supports(objective)] or asked[:1]
    return np.asarray(
        np.mean([reduce(objective, q.parts(objective, weight)) for q in used], axis=0)
    )


def reduce(objective: Objective, parts: Sequence[Part]) -> FloatArray:
    """Return the objective from its parts, `(r,)`."""
    if objective.metric in COMPOUNDS:
        gaps = np.stack([np.ptp(part.groups, axis=0) for part in parts])
        pooled = gaps.mean(axis=0) if objective.metric == "eo_avg" else gaps.max(axis=0)
        return np.asarray(pooled)
    (part,) = parts
    return reduced(objective.reduction, part.metric, part.overall, part.groups)


def reduced(
    reduction: Reduction, metric: Metric, overall: FloatArray, groups: FloatArray
) -> FloatArray:
    """Reduce group values `(g, r)` to `(r,)`.

    worst = min_g M_g (max where lower is better); gap = max_g M_g - min_g M_g;
    es = M / (1 + sum_g |M - M_g|) (FairCLIP, Luo et al. 2024, alpha = 1); es_pop and es_sample =
    M / (1 + SD_g M_g) with the population SD (FairMedFM) and the sample SD (FairSeg).
    """
    if reduction == "overall":
        return overall
    if reduction == "worst":
        return np.asarray(groups.min(axis=0) if metric.better == "higher" else groups.max(axis=0))
    if reduction == "gap":
        return np.asarray(np.ptp(groups, axis=0))
    if reduction == "es":
        return np.asarray(overall / (1 + np.abs(overall - groups).sum(axis=0)))
    return np.asarray(overall / (1 + groups.std(axis=0, ddof=int(reduction == "es_sample"))))
