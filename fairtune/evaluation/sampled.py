"""Figures of several recipes under the same resampled patients: one pass for all that is asked.

A side is a recipe: predictions of one or several seeds. Patients are shared by all sides, seeds
are not. Level one is a Bayesian bootstrap over patients, level two reweights the seeds of a side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fairtune.errors import DataError
from fairtune.evaluation.arrays import AnyArray, FloatArray
from fairtune.evaluation.groups import group_rows, unit_weights
from fairtune.evaluation.metrics import Metric
from fairtune.evaluation.metrics import metric as base_metric
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.resampling import REPLICATES, weight_chunks
from fairtune.evaluation.rules import GroupMinimum, Threshold
from fairtune.evaluation.values import Part, Question, questions, reduce

Thresholds = Threshold | Sequence[Threshold]
Asked = Sequence[Sequence[Question]]
"""The questions of one side, per seed and target."""
Pair = tuple[str, str]
"""A base metric and an attribute: the metric of each eligible group."""


@dataclass(frozen=True, eq=False)
class Side:
    """A recipe.

    Args:
        predictions: One per seed.
        thresholds: One for all seeds, or one per seed; rules are cross-fitted.
    """

    predictions: Sequence[Predictions]
    thresholds: Thresholds


@dataclass(frozen=True, eq=False)
class Drawn:
    """One figure.

    Args:
        point: Mean over the seeds.
        draws: `(r,)` the same under resampled patients and seeds.
    """

    point: float
    draws: FloatArray

    @property
    def se(self) -> float:
        """Standard error: of patients, and of seeds where there are several."""
        return float(self.draws.std())


@dataclass(frozen=True, eq=False)
class Groups:
    """One base metric in every eligible group of an attribute.

    Args:
        names: Names of the groups.
        rows: Number of rows of each.
        values: The figure of each.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]
    values: tuple[Drawn, ...]


@dataclass(frozen=True, eq=False)
class Sampled:
    """What was asked of one side.

    Args:
        seeds: Number of seeds.
        patients: Number of patients.
        objectives: By printed name; those that the table supports.
        groups: By metric and attribute; those with an eligible group.
        faults: Why an objective is not there.
    """

    seeds: int
    patients: int
    objectives: Mapping[str, Drawn]
    groups: Mapping[Pair, Groups]
    faults: Mapping[str, DataError] = field(default_factory=dict)

    def of(self, objective: Objective) -> Drawn:
        """Return one objective.

        Raises:
            DataError: The table cannot answer it.
        """
        if str(objective) in self.faults:
            raise self.faults[str(objective)]
        return self.objectives[str(objective)]


def sample(
    sides: Mapping[str, Side],
    objectives: Sequence[Objective],
    groups: Sequence[Pair] = (),
    *,
    minimum: GroupMinimum,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, Sampled]:
    """Return objectives and group values of every side, drawn with the same patients.

    Args:
        sides: Recipes by name, all on the same rows.
        objectives: What to compute; one that a table does not support becomes a fault.
        groups: Base metrics by attribute.
        minimum: What a group must have.
        replicates: Draws.
        seed: Seed of the draws; the patients of one seed are the same in every call.

    Raises:
        DataError: The sides do not hold the same rows.
    """
    same_rows([p for side in sides.values() for p in side.predictions])
    wanted = [*objectives, *(Objective(metric) for metric, _ in groups)]
    asked = {
        name: asked_of(side.predictions, wanted, minimum, side.thresholds)
        for name, side in sides.items()
    }
    plans = {name: _Plan.of(seeds, objectives, groups) for name, seeds in asked.items()}
    parts: dict[str, list[FloatArray]] = {name: [] for name in sides}
    for weight in weight_chunks(_patients(sides), replicates, seed):
        for name, seeds in asked.items():
            parts[name].append(np.stack([plans[name].values(one, weight) for one in seeds]))
    found = {}
    for i, (name, seeds) in enumerate(asked.items()):
        ones = unit_weights(len(seeds[0][0].p))
        point = np.mean([plans[name].values(one, ones)[:, 0] for one in seeds], axis=0)
        rng = np.random.default_rng([seed, 1 + i])
        draws = over_seeds(np.concatenate(parts[name], axis=-1), rng)
        patients = len(np.unique(seeds[0][0].p.patient))
        found[name] = plans[name].read(point, draws, len(seeds), patients)
    return found


def _patients(sides: Mapping[str, Side]) -> AnyArray:
    return next(iter(sides.values())).predictions[0].patient


@dataclass(frozen=True, eq=False)
class _Plan:
    """The rows of a matrix of figures: objectives first, then groups pair by pair."""

    objectives: tuple[Objective, ...]
    pairs: tuple[tuple[Pair, tuple[int, ...]], ...]
    table: Predictions
    faults: Mapping[str, DataError]

    @classmethod
    def of(cls, seeds: Asked, objectives: Sequence[Objective], groups: Sequence[Pair]) -> _Plan:
        first, ones = seeds[0], unit_weights(len(seeds[0][0].p))
        possible, faults = [], {}
        for objective in objectives:
            try:
                _Weighted(first, ones).objective(objective)
                possible.append(objective)
            except DataError as error:
                faults[str(objective)] = error
        pairs = []
        for name, attribute in dict.fromkeys(groups):
            metric, named = base_metric(name), first[0].p.attribute(attribute)
            codes = np.flatnonzero(np.any([q.eligible(metric, named) for q in first], axis=0))
            if len(codes):
                pairs.append(((name, attribute), tuple(int(c) for c in codes)))
        return cls(tuple(possible), tuple(pairs), first[0].p, faults)

    def values(self, asked: Sequence[Question], weight: FloatArray) -> FloatArray:
        """Return `(figures, r)` of one seed."""
        here = _Weighted(asked, weight)
        rows = [here.objective(objective) for objective in self.objectives]
        for (metric, attribute), codes in self.pairs:
            rows += [here.group(base_metric(metric), attribute, code) for code in codes]
        return np.stack(rows) if rows else np.empty((0, weight.shape[1]))

    def read(self, point: FloatArray, draws: FloatArray, seeds: int, patients: int) -> Sampled:
        """Return the figures by name."""
        each = [Drawn(float(value), drawn) for value, drawn in zip(point, draws)]
        objectives = {str(o): each[i] for i, o in enumerate(self.objectives)}
        groups, at = {}, len(self.objectives)
        for pair, codes in self.pairs:
            named = self.table.attribute(pair[1])
            rows = group_rows(named)
            groups[pair] = Groups(
                tuple(named.names[code] for code in codes),
                tuple(len(rows[code]) for code in codes),
                tuple(each[at : at + len(codes)]),
            )
            at += len(codes)
        return Sampled(seeds, patients, objectives, groups, self.faults)


class _Weighted:
    """One seed under one set of weights; what several figures share is computed once."""

    def __init__(self, asked: Sequence[Question], weight: FloatArray) -> None:
        self.asked, self.weight = asked, weight
        self._overall: dict[tuple[int, str], FloatArray] = {}
        self._groups: dict[tuple[int, str, str], FloatArray] = {}

    def objective(self, objective: Objective) -> FloatArray:
        """Return an objective, `(r,)`: the mean over the targets that support it."""
        used = [i for i, q in enumerate(self.asked) if q.supports(objective)] or [0]
        return np.asarray(
            np.mean([reduce(objective, self._parts(i, objective)) for i in used], axis=0)
        )

    def group(self, metric: Metric, attribute: str, code: int) -> FloatArray:
        """Return a metric of one group, `(r,)`: the mean over the targets that support it."""
        found = []
        for i, q in enumerate(self.asked):
            named = q.p.attribute(attribute)
            eligible = q.eligible(metric, named)
            if eligible[code]:
                place = int(eligible[:code].sum())
                found.append(self._of_groups(i, metric, named)[place])
        return np.asarray(np.mean(found, axis=0))

    def _parts(self, i: int, objective: Objective) -> list[Part]:
        q = self.asked[i]
        if objective.attribute is None or not q.supports(objective):
            return q.parts(objective, self.weight)  # says what is missing
        named, scaled = q.p.attribute(objective.attribute), objective.reduction.startswith("es")
        parts = []
        for metric in objective.parts:
            overall = self._of_all(i, metric) if scaled else np.empty(0)
            names = tuple(n for n, e in zip(named.names, q.eligible(metric, named)) if e)
            parts.append(Part(metric, overall, self._of_groups(i, metric, named), names))
        return parts

    def _of_all(self, i: int, metric: Metric) -> FloatArray:
        key = (i, metric.name)
        if key not in self._overall:
            self._overall[key] = self.asked[i].overall(metric, self.weight)
        return self._overall[key]

    def _of_groups(self, i: int, metric: Metric, named: Attribute) -> FloatArray:
        key = (i, metric.name, named.name)
        if key not in self._groups:
            q = self.asked[i]
            rows = group_rows(named)
            codes = np.flatnonzero(q.eligible(metric, named))
            self._groups[key] = q.values(metric, [rows[c] for c in codes], self.weight)
        return self._groups[key]


def asked_of(
    side: Sequence[Predictions],
    objectives: Sequence[Objective],
    minimum: GroupMinimum,
    cuts: Thresholds,
) -> Asked:
    """Return the questions of one side, each seed decided at its threshold."""
    return [questions(p, objectives, minimum, cut) for p, cut in zip(side, _each(cuts, side))]


def over_seeds(values: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return `(..., r)` means over seeds `(s, ..., r)` with the seeds resampled.

    Flat Dirichlet weights give a mean of s values the variance (s - 1) / (s + 1) of what s
    independent seeds have, so deviations are stretched by the root of the inverse. A replicate
    has one set of weights for all figures, so they stay paired.
    """
    seeds, replicates = values.shape[0], values.shape[-1]
    mean = values.mean(axis=0)
    if seeds == 1:
        return np.asarray(mean)
    weight = rng.standard_exponential((seeds, replicates))
    weight /= weight.sum(axis=0)
    moved = np.einsum("sr,s...r->...r", weight, values - mean)
    return np.asarray(mean + np.sqrt((seeds + 1) / (seeds - 1)) * moved)


def same_rows(tables: Sequence[Predictions]) -> None:
    """Raise a DataError unless all tables hold the same rows of the same patients."""
    first = tables[0]
    for other in tables[1:]:
        alike = len(other) == len(first) and bool(
            (other.patient == first.patient).all() and (other.label == first.label).all()
        )
        if not alike:
            raise DataError(
                "only predictions on the same rows can be compared",
                found=f"{len(first)} and {len(other)} rows, or other patients or labels",
                todo="score both models on one split, in one order",
            )


def _each(cuts: Thresholds, side: Sequence[Predictions]) -> Sequence[Threshold]:
    """Return one threshold per seed; a tuple is one threshold per target, so it is no list."""
    if isinstance(cuts, Sequence) and not isinstance(cuts, tuple):
        if len(cuts) != len(side):
            raise DataError("one threshold per seed is needed", found=len(cuts), allowed=len(side))
        return cuts
    return [cuts] * len(side)
