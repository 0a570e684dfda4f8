"""Paired differences between two recipes on the same patients.

Two sides are two lists of predictions, one per seed. Patients are shared, seeds are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fairtune.evaluation.arrays import FloatArray
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.resampling import REPLICATES
from fairtune.evaluation.rules import GroupMinimum
from fairtune.evaluation.sampled import Drawn, Sampled, Side, Thresholds, sample

TAIL = 0.025


@dataclass(frozen=True, eq=False)
class Difference:
    """A difference a - b with its 95 % interval.

    Args:
        value: Mean over the seeds of a minus mean over the seeds of b.
        low: Lower end.
        high: Upper end.
        draws: `(replicates,)` differences under resampled patients and seeds.
        seeds: Number of seeds of a and of b; of neither where seeds change nothing.
        patients: Patients resampled.
        points: Means over the seeds of a and of b.
    """

    value: float
    low: float
    high: float
    draws: FloatArray
    seeds: tuple[int, ...] = (1, 1)
    patients: int = 0
    points: tuple[float, ...] = ()

    @property
    def speaks_of(self) -> str:
        """What a claim may be about: one seed says nothing about the method behind it."""
        return "this method" if min(self.seeds, default=2) > 1 else "this model"

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
    sides = {"a": Side(a, thresholds_a), "b": Side(b, thresholds_b)}
    drawn = sample(sides, [objective], minimum=minimum, replicates=replicates, seed=seed)
    return difference(drawn["a"], drawn["b"], objective)


def difference(a: Sampled, b: Sampled, objective: Objective) -> Difference:
    """Return objective(a) - objective(b) of two sides drawn in one call of `sample`.

    Raises:
        DataError: The tables cannot answer it.
    """
    return of_figures(a.of(objective), b.of(objective), (a.seeds, b.seeds), a.patients)


def of_figures(
    a: Drawn, b: Drawn, seeds: tuple[int, int], patients: int, sign: float = 1.0
) -> Difference:
    """Return `sign` times a - b, the draws moved to have the point difference as their mean.

    Args:
        a: A figure of one side.
        b: The same figure of the other.
        seeds: Number of seeds of a and of b.
        patients: Patients resampled.
        sign: -1 to count lower as better.
    """
    value, draws = sign * (a.point - b.point), sign * (a.draws - b.draws)
    centred = draws + (value - draws.mean())
    low, high = np.quantile(centred, [TAIL, 1 - TAIL])
    points = (a.point, b.point)
    return Difference(value, float(low), float(high), centred, seeds, patients, points)
