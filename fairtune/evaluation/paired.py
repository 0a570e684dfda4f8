"""Paired differences between two recipes on the same patients.

Two sides are two lists of predictions, one per seed. Patients are shared, seeds are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from fairtune.errors import DataError
from fairtune.evaluation.arrays import FloatArray
from fairtune.evaluation.groups import unit_weights
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.resampling import REPLICATES, resample
from fairtune.evaluation.rules import GroupMinimum, Threshold
from fairtune.evaluation.values import Question, objective_values, questions

TAIL = 0.025
Thresholds = Threshold | Sequence[Threshold]


@dataclass(frozen=True, eq=False)
class Difference:
    """A difference a - b with its 95 % interval.

    Args:
        value: Mean over the seeds of a minus mean over the seeds of b.
        low: Lower end.
        high: Upper end.
        draws: `(replicates,)` differences under resampled patients and seeds.
        seeds: Number of seeds of a and of b.
        patients: Patients resampled.
        points: Means over the seeds of a and of b.
    """

    value: float
    low: float
    high: float
    draws: FloatArray
    seeds: tuple[int, int] = (1, 1)
    patients: int = 0
    points: tuple[float, ...] = ()

    @property
    def speaks_of(self) -> str:
        """What a claim may be about: one seed says nothing about the method behind it."""
        return "this method" if min(self.seeds) > 1 else "this model"

    def gain(self, objective: Objective) -> Difference:
        """Return the difference with better counted up."""
        if objective.sign > 0:
            return self
        return replace(self, value=-self.value, low=-self.high, high=-self.low, draws=-self.draws)

    def ends(self, tail: float) -> tuple[float, float]:
        """Return the interval that leaves `tail` out on each side."""
        low, high = np.quantile(self.draws, [tail, 1 - tail])
        return float(low), float(high)


def paired_difference(
    a: Sequence[Predictions],
    b: Sequence[Predictions],
    objective: Objective,
    *,
    minimum: GroupMinimum,
    thresholds_a: Thresholds,
    thresholds_b: Thresholds,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Difference:
    """Return objective(a) - objective(b) with a two-level interval.

    Level one is a Bayesian bootstrap over patients whose weights all models share; level two
    reweights the seeds of each side, spread so that their variance is that of a mean of
    independent seeds. Draws are moved to have the point difference as their mean: minima and gaps
    of resampled groups are biased, and not equally on both sides.

    Args:
        a: Predictions of one recipe, one per seed.
        b: Predictions of the other.
        objective: What to compare.
        minimum: What a group must have.
        thresholds_a: One for all seeds, or one per seed; rules are cross-fitted.
        thresholds_b: The same for b.
        replicates: Draws.
        seed: Seed of the draws.

    Raises:
        DataError: The tables do not hold the same patients and rows, or too few groups.
    """
    same_rows([*a, *b])
    sides = (
        asked_of(a, [objective], minimum, thresholds_a),
        asked_of(b, [objective], minimum, thresholds_b),
    )
    return difference(
        sides,
        lambda asked, weight: objective_values(asked, objective, weight),
        replicates=replicates,
        seed=seed,
    )


Asked = Sequence[Sequence[Question]]
"""The questions of one side, per seed and target."""


def asked_of(
    side: Sequence[Predictions],
    objectives: Sequence[Objective],
    minimum: GroupMinimum,
    cuts: Thresholds,
) -> Asked:
    """Return the questions of one side, each seed decided at its threshold."""
    return [questions(p, objectives, minimum, cut) for p, cut in zip(side, _each(cuts, side))]


def difference(
    sides: tuple[Asked, Asked],
    statistic: Callable[[Sequence[Question], FloatArray], FloatArray],
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    sign: float = 1.0,
) -> Difference:
    """Return `sign` times the difference of any statistic of one seed's questions.

    Args:
        sides: Questions of a and of b, on the same rows.
        statistic: Maps questions and weights `(n, r)` to `(r,)`.
        replicates: Draws.
        seed: Seed of the draws.
        sign: -1 to count lower as better.
    """
    patient = sides[0][0][0].p.patient
    ones = unit_weights(len(patient))
    rng = np.random.default_rng([seed, 1])
    points, drawn = [], []
    for side in sides:
        points.append(float(np.mean([statistic(asked, ones)[0] for asked in side])))
        per_seed = [
            resample(patient, partial(statistic, asked), replicates, seed) for asked in side
        ]
        drawn.append(_over_seeds(np.stack(per_seed), rng))
    value, draws = sign * (points[0] - points[1]), sign * (drawn[0] - drawn[1])
    centred = draws + (value - draws.mean())
    low, high = np.quantile(centred, [TAIL, 1 - TAIL])
    seeds = (len(sides[0]), len(sides[1]))
    return Difference(
        value, float(low), float(high), centred, seeds, len(np.unique(patient)), tuple(points)
    )


def _over_seeds(values: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return `(r,)` means over seeds `(s, r)` with the seeds resampled.

    Flat Dirichlet weights give a mean of s values the variance (s - 1) / (s + 1) of what s
    independent seeds have, so deviations are stretched by the root of the inverse.
    """
    seeds, replicates = values.shape
    mean = values.mean(axis=0)
    if seeds == 1:
        return np.asarray(mean)
    weight = rng.standard_exponential((seeds, replicates))
    weight /= weight.sum(axis=0)
    moved = (weight * (values - mean)).sum(axis=0)
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
