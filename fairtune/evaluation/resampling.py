"""Resampling by patient: Bayesian bootstrap weights, and ordinary in-bag and out-of-bag counts.

The weights of a patient are shared by all of the patient's rows, by all groups, metrics and
compared models, so everything computed from one seed is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fairtune.evaluation.arrays import AnyArray, FloatArray, IntArray

REPLICATES = 2000
CELLS = 1_500_000
"""Weights held at once (rows x replicates); small enough for the chunk to stay in cache."""


def patient_codes(patient: AnyArray) -> tuple[IntArray, int]:
    """Return patients as 0..k-1 in the order of their values, and k."""
    known, code = np.unique(patient, return_inverse=True)
    return code.astype(np.int64), len(known)


def weight_chunks(
    patient: AnyArray, replicates: int = REPLICATES, seed: int = 0
) -> Iterator[FloatArray]:
    """Yield Bayesian bootstrap weights of the rows, `(n, r)` with r adding up to `replicates`.

    Each patient gets an independent Exp(1) weight per replicate (Rubin 1981). No replicate loses
    a class or a group, as drawing rows with replacement would. The same seed and the same set of
    patients give the same weights, whatever the number of rows.

    Args:
        patient: `(n,)` codes.
        replicates: How many weightings.
        seed: Seed of the draws.
    """
    code, patients = patient_codes(patient)
    rng = np.random.default_rng(seed)
    size = max(1, CELLS // len(code))
    plain = patients == len(code) and bool((code == np.arange(len(code))).all())
    for start in range(0, replicates, size):
        shape = (min(size, replicates - start), patients)
        # Drawn replicate by replicate, so that the chunk size changes no draw.
        weight = np.ascontiguousarray(rng.standard_exponential(shape).T)
        yield weight if plain else weight[code]


def resample(
    patient: AnyArray,
    statistic: Callable[[FloatArray], FloatArray],
    replicates: int = REPLICATES,
    seed: int = 0,
) -> FloatArray:
    """Return `statistic(weights)` for every replicate.

    Args:
        patient: `(n,)` codes.
        statistic: Maps weights `(n, r)` to `(..., r)`.
        replicates: How many weightings.
        seed: Seed of the draws.

    Returns:
        `(..., replicates)`.
    """
    drawn = [statistic(weight) for weight in weight_chunks(patient, replicates, seed)]
    return np.concatenate(drawn, axis=-1)


def bag_chunks(
    patient: AnyArray, replicates: int, seed: int = 0
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield in-bag counts and out-of-bag indicators of the rows, `(n, r)` each.

    Patients are drawn with replacement, as many as there are; the out-of-bag rows are those of
    the patients never drawn.
    """
    code, patients = patient_codes(patient)
    rng = np.random.default_rng(seed)
    size = max(1, CELLS // len(code))
    for start in range(0, replicates, size):
        shape = (min(size, replicates - start), patients)
        drawn = rng.integers(0, patients, size=shape)
        counts = np.stack([np.bincount(row, minlength=patients) for row in drawn], axis=1)
        inside = counts.astype(np.float64)[code]
        yield inside, (inside == 0).astype(np.float64)


def percentile_interval(draws: FloatArray, tail: float = 0.025) -> tuple[float, float]:
    """Return the `tail` and `1 - tail` quantiles of the draws of a smooth statistic.

    Not meant for minima, maxima and gaps over groups, whose draws are biased.
    """
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)
