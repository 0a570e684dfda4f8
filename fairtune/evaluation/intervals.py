"""Intervals of group figures, of the worst group and of the gap, all at the patient level.

A `Bound` is a function from the probability left out in each tail to the two ends, because the
worst-group and gap rules ask for several tails of one group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from fairtune.evaluation.arrays import AnyArray, FloatArray, IntArray
from fairtune.evaluation.clusters import Trust, quantile, trust, variance_of_mean
from fairtune.evaluation.resampling import patient_codes

Ends = tuple[float, float]
Bound = Callable[[float], Ends]
TAIL = 0.025


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value and its interval at any tail probability."""

    value: float
    bound: Bound


@dataclass(frozen=True)
class Area:
    """An AUC with its variance.

    Attributes:
        auc: In [0, 1].
        variance: Infinite where fewer than two patients have positives, or negatives.
        freedom: Degrees of freedom of the variance; infinite with one row per patient, where the
            normal quantile is near enough.
    """

    auc: float
    variance: float
    freedom: float = np.inf


def delong(label: IntArray, score: FloatArray, patient: AnyArray) -> Area:
    """Return the AUC and its variance, allowing for patients with several rows.

    With one row per patient this is DeLong, DeLong and Clarke-Pearson (1988). With several it is
    Obuchowski (1997), whose covariance term carries what the positives and negatives of one
    patient share; her factors G / (G - 1) are replaced by those of `clusters.trust`, which know
    that patients differ in size, and the degrees of freedom are Satterthwaite's, (V1 + V2)^2 /
    (V1^2 / f1 + V2^2 / f2) for the parts of positives and negatives. (`tests/bench/covering.py`,
    1,000 tables, seed 0: with z and G / (G - 1) the 95 % interval of ten positives in about four
    patients held the truth .86 of the time.)

    Args:
        label: `(n,)` of 0/1, both present.
        score: `(n,)` real scores.
        patient: `(n,)` codes.
    """
    positive = np.asarray(label) == 1
    above, below = np.sort(score[positive]), np.sort(score[~positive])
    v10 = _placement(below, score[positive])
    v01 = 1.0 - _placement(above, score[~positive])
    auc = float(v10.mean())
    code, patients = patient_codes(patient)
    d10, of10 = _part(code[positive], v10 - auc, patients)
    d01, of01 = _part(code[~positive], v01 - auc, patients)
    if of10 is None or of01 is None:
        return Area(auc, np.inf)
    m, n = len(v10), len(v01)
    first = of10.inflation * float(d10 @ d10) / m**2
    second = of01.inflation * float(d01 @ d01) / n**2
    shared = 2 * patients / (patients - 1) * float(d10 @ d01) / (m * n)
    variance = max(first + second + shared, 0.0)
    if patients == m + n or first + second == 0:
        return Area(auc, variance)
    spread = first**2 / of10.freedom + second**2 / of01.freedom
    return Area(auc, variance, (first + second) ** 2 / spread)


def _part(code: IntArray, values: FloatArray, patients: int) -> tuple[FloatArray, Trust | None]:
    """Return the sum of each patient and the trust in their squares; None under two patients."""
    rows = np.bincount(code, minlength=patients)
    sums = np.bincount(code, weights=values, minlength=patients).astype(np.float64)
    present = rows[rows > 0]
    return sums, trust(present) if len(present) > 1 else None


def _placement(reference: FloatArray, values: FloatArray) -> FloatArray:
    """Return for each value the share of the sorted reference below it, ties counting half."""
    low = np.searchsorted(reference, values, side="left")
    high = np.searchsorted(reference, values, side="right")
    return np.asarray((low + high) / (2 * len(reference)))


def auc_estimate(label: IntArray, score: FloatArray, patient: AnyArray) -> Estimate:
    """Return the AUC with its logit-transformed DeLong interval.

    Where the variance is 0 or unknown (perfect ranking, one patient) the interval is Newcombe's
    (2006, method 5) instead: all A with |A - AUC| <= z SE(A), SE by Hanley and McNeil on the
    numbers of patients with positives and with negatives.
    """
    area = delong(label, score, patient)
    auc = area.auc
    if 0 < auc < 1 and 0 < area.variance < np.inf:
        scale = np.sqrt(area.variance) / (auc * (1 - auc))

        def bound(tail: float) -> Ends:
            half = quantile(tail, area.freedom) * scale
            return float(expit(logit(auc) - half)), float(expit(logit(auc) + half))

        return Estimate(auc, bound)
    positive = np.asarray(label) == 1
    m, n = len(np.unique(patient[positive])), len(np.unique(patient[~positive]))
    return Estimate(auc, lambda tail: newcombe(auc, m, n, tail))


def newcombe(auc: float, positives: int, negatives: int, tail: float = TAIL) -> Ends:
    """Return all A with |A - auc| <= z SE_HanleyMcNeil(A), which is never empty at 0 or 1."""
    z = quantile(tail)

    def excess(a: float) -> float:
        return abs(a - auc) - z * hanley_mcneil(a, positives, negatives)

    tiny = 1e-12
    low = 0.0 if auc <= 0 else _edge(excess, tiny, auc, 0.0)
    high = 1.0 if auc >= 1 else _edge(excess, 1 - tiny, auc, 1.0)
    return low, high


def _edge(excess: Callable[[float], float], outer: float, auc: float, limit: float) -> float:
    inner = min(max(auc, 1e-9), 1 - 1e-9)
    if excess(outer) <= 0:
        return limit
    if excess(inner) >= 0:
        return auc
    return float(brentq(excess, outer, inner))


def hanley_mcneil(auc: float, positives: int, negatives: int) -> float:
    """Return the standard error of an AUC from its value and the class counts alone.

    Hanley and McNeil (1982): Q1 = A / (2 - A), Q2 = 2 A^2 / (1 + A),
    var = (A (1 - A) + (m - 1)(Q1 - A^2) + (n - 1)(Q2 - A^2)) / (m n).
    """
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return float(np.sqrt(max(spread, 0.0) / (positives * negatives)))


def effective_patients(patient: AnyArray) -> float:
    """Return (sum n)^2 / sum n^2 over the rows per patient."""
    rows = np.unique(patient, return_counts=True)[1].astype(np.float64)
    return float(rows.sum() ** 2 / (rows**2).sum()) if len(rows) else 0.0


def rate_estimate(success: FloatArray, patient: AnyArray) -> Estimate:
    """Return a proportion with its Wilson interval.

    With several rows per patient the number of rows is divided by the design effect (variance of
    the ratio estimator over patients, by `clusters.trust`, relative to binomial), never below 1;
    where all rows agree the number is that of effective patients.

    Args:
        success: `(n,)` of 0/1, not empty.
        patient: `(n,)` codes.
    """
    n, rate = len(success), float(np.mean(success))
    code, patients = patient_codes(patient)
    size = float(n)
    if patients < n:
        binomial = rate * (1 - rate) / n
        if binomial > 0 and patients > 1:
            size = n / max(variance_of_mean(success, code) / binomial, 1.0)
        else:
            size = effective_patients(patient)
    return Estimate(rate, lambda tail: wilson(rate, size, tail))


def wilson(rate: float, n: float, tail: float = TAIL) -> Ends:
    """Return the Wilson score interval of a proportion of `n` independent rows."""
    z2 = quantile(tail) ** 2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (rate * (1 - rate) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    low = 0.0 if rate == 0 else max(0.0, centre - half)
    high = 1.0 if rate == 1 else min(1.0, centre + half)
    return float(low), float(high)


def drawn_estimate(value: float, draws: FloatArray) -> Estimate:
    """Return a value with the percentile interval of its bootstrap draws `(r,)`."""
    ordered = np.sort(draws)

    def bound(tail: float) -> Ends:
        low, high = np.quantile(ordered, [tail, 1 - tail])
        # A biased statistic (ECE near 0) must not fall outside its own interval.
        return min(float(low), value), max(float(high), value)

    return Estimate(value, bound)


def worst_interval(groups: Sequence[Estimate], *, higher: bool = True, tail: float = TAIL) -> Ends:
    """Return the interval of the worst of K group values.

    [min_g L_g(tail), min_g U_g(tail / K)]; mirrored where lower is better. One of the lower ends
    is that of the truly worst group, so the minimum of all needs no correction; all K upper ends
    must hold at once.

    Args:
        groups: The eligible groups.
        higher: Whether higher is better, so that the worst is the smallest.
        tail: Probability left out on each side.
    """
    shared = tail / len(groups)
    if higher:
        return min(g.bound(tail)[0] for g in groups), min(g.bound(shared)[1] for g in groups)
    return max(g.bound(shared)[0] for g in groups), max(g.bound(tail)[1] for g in groups)


Pair = Callable[[int, int, float], Ends]


def mover(a: Estimate, b: Estimate, tail: float = TAIL) -> Ends:
    """Return the interval of a - b for independent a and b (MOVER, Zou and Donner 2008)."""
    (la, ua), (lb, ub) = a.bound(tail), b.bound(tail)
    difference = a.value - b.value
    low = difference - np.hypot(a.value - la, ub - b.value)
    high = difference + np.hypot(ua - a.value, b.value - lb)
    return float(low), float(high)


def gap_interval(
    groups: Sequence[Estimate], *, pair: Pair | None = None, tail: float = TAIL
) -> Ends:
    """Return the interval of the gap max_g - min_g of K group values.

    [max(0, max_{g,h} L_gh(tail / (K (K - 1)))), max_{g,h} U_gh(tail)] with L_gh, U_gh the
    interval of the signed difference g - h.

    Args:
        groups: The eligible groups, two or more.
        pair: Interval of the signed difference of groups g and h at a tail; MOVER when left out,
            a paired bootstrap where groups share patients.
        tail: Probability left out on each side.
    """
    k = len(groups)

    def independent(g: int, h: int, at: float) -> Ends:
        return mover(groups[g], groups[h], at)

    ends = pair or independent
    pairs = [(g, h) for g in range(k) for h in range(k) if g != h]
    low = max(ends(g, h, tail / (k * (k - 1)))[0] for g, h in pairs)
    return max(0.0, low), max(ends(g, h, tail)[1] for g, h in pairs)


def drawn_pair(values: FloatArray, draws: FloatArray) -> Pair:
    """Return the paired-bootstrap interval of signed differences.

    Args:
        values: `(groups,)` point values.
        draws: `(groups, r)` draws that share their weights.
    """

    def ends(g: int, h: int, tail: float) -> Ends:
        return drawn_estimate(float(values[g] - values[h]), draws[g] - draws[h]).bound(tail)

    return ends
