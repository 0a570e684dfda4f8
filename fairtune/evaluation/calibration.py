"""Calibration of probabilities, for many weightings of the same rows at once.

Weights have shape `(rows, replicates)`.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy.special import erf, expit, logit

from fairtune.evaluation.arrays import FloatArray, IntArray

BINS = 10
NEWTON_STEPS = 60
STEP = 4.0
LIMIT = 100.0
"""Slopes and intercepts end here: scores that separate the classes have no finite slope."""

EPSILON = float(np.finfo(np.float64).eps)


def ece(
    label: FloatArray,
    score: FloatArray,
    weight: FloatArray,
    *,
    estimator: Literal["debiased", "plugin"] = "debiased",
) -> FloatArray:
    r"""Return the expected calibration error over ten bins of equal mass.

    A row belongs to bin floor(10 F(s)), F the weighted mid-rank share of its score, so tied
    scores share a bin and the order of rows does not matter. With d_b the difference of mean
    score and share of positives in bin b, and p_b its mass, the plug-in estimate is
    sum_b p_b |d_b|. It is too high by about sqrt(bins / n) even for a calibrated model, more so
    in small groups. The debiased estimate takes off the expected excess of |d_b| under the normal
    approximation of Kumar, Liang and Ma (2019, section 5 and its appendix),

        sum_b p_b (2 |d_b| - E|N(d_b, v_b)|),  v_b = y_b (1 - y_b) / m_b,

    in closed form instead of by simulation, and is cut at 0. It removes about 40 % of the excess
    of a calibrated model and nearly all of a clearly miscalibrated one; m_b = (sum w)^2 / sum w^2.

    Args:
        label: `(m,)` of 0/1.
        score: `(m,)` probabilities.
        weight: `(m, r)`, not negative, positive in sum.
        estimator: `debiased` or `plugin`.

    Returns:
        `(r,)` values in [0, 1].
    """
    order = np.argsort(score, kind="stable")
    ordered, own = score[order], weight[order]
    positive_rows, squares_rows = own * label[order, None], own * own
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    if len(starts) < len(order):
        ordered = ordered[starts]
        own, positive_rows, squares_rows = (
            np.add.reduceat(rows, starts, axis=0) for rows in (own, positive_rows, squares_rows)
        )
    upto = np.cumsum(own, axis=0)
    edges = _edges(upto - 0.5 * own, upto[-1])
    mass = _between(upto, edges)
    safe = np.where(mass > 0, mass, 1.0)
    positive = _between(np.cumsum(positive_rows, axis=0, out=positive_rows), edges) / safe
    own *= ordered[:, None]
    error = np.abs(_between(np.cumsum(own, axis=0, out=own), edges) / safe - positive)
    if estimator == "debiased":
        squares = _between(np.cumsum(squares_rows, axis=0, out=squares_rows), edges)
        variance = positive * (1 - positive) * squares / safe**2
        error = 2 * error - _folded_mean(error, np.sqrt(np.maximum(variance, 0.0)))
    return np.asarray(np.maximum((mass * error).sum(axis=0) / mass.sum(axis=0), 0.0))


def _edges(middle: FloatArray, total: FloatArray) -> IntArray:
    """Return where each bin begins and the last one ends, `(BINS + 1, r)`.

    Rows are in the order of their scores, so a bin is a run of them: its first row is found by
    bisection, in all replicates at once.

    Args:
        middle: `(t, r)` weight below each distinct score and half its own; never falls.
        total: `(r,)` weight of all rows.
    """
    replicates = middle.shape[1]
    # The last bits of a cumulative sum must not push a mid-rank over the edge of its bin.
    wanted = (np.arange(1, BINS)[:, None] - 1e-9) / BINS * total
    low = np.zeros((BINS - 1, replicates), dtype=np.int64)
    high = np.full_like(low, len(middle))
    column = np.arange(replicates)
    for _ in range(len(middle).bit_length()):
        half = (low + high) // 2
        at = middle[np.minimum(half, len(middle) - 1), column]
        beyond = (half < len(middle)) & (at < wanted)
        low, high = np.where(beyond, half + 1, low), np.where(beyond, high, half)
    ends = np.full((1, replicates), len(middle))
    return np.concatenate([np.zeros_like(ends), low, ends])


def _between(upto: FloatArray, edges: IntArray) -> FloatArray:
    """Return the sums of each bin, `(BINS, r)`, from cumulative sums `(t, r)`."""
    column = np.arange(upto.shape[1])
    reached = np.where(edges > 0, upto[np.maximum(edges, 1) - 1, column], 0.0)
    return np.asarray(np.diff(reached, axis=0))


def _folded_mean(mean: FloatArray, sd: FloatArray) -> FloatArray:
    """Return E|N(mean, sd^2)|, which is |mean| where sd is 0."""
    spread = np.where(sd > 0, sd, 1.0)
    z = mean / spread
    folded = spread * math.sqrt(2 / math.pi) * np.exp(-(z**2) / 2) + mean * erf(z / math.sqrt(2))
    return np.asarray(np.where(sd > 0, folded, np.abs(mean)))


def log_odds(score: FloatArray) -> FloatArray:
    """Return logit(score) with probabilities kept one float64 epsilon away from 0 and 1."""
    return np.asarray(logit(np.clip(score, EPSILON, 1 - EPSILON)))


def calibration_slope(label: FloatArray, score: FloatArray, weight: FloatArray) -> FloatArray:
    """Return b of the logistic recalibration logit P(y=1) = a + b logit(score); 1 is ideal.

    Below 1 the probabilities are too extreme. Maximum likelihood by damped Newton steps. Scores
    that separate the classes have no finite slope and give 100 (or -100); equal scores give 0.

    Args:
        label: `(m,)` of 0/1, both present.
        score: `(m,)` probabilities.
        weight: `(m, r)`, not negative.

    Returns:
        `(r,)` slopes.
    """
    x = log_odds(score)
    replicates = weight.shape[1]
    if np.ptp(x) < 1e-12:
        return np.zeros(replicates)
    # Centred and scaled, the two coefficients are nearly independent and steps are comparable.
    centre, scale = float(x.mean()), float(x.std())
    z = (x - centre) / scale
    start = _logistic(z, label, weight.mean(axis=1, keepdims=True), np.zeros((2, 1)))
    _, b = _logistic(z, label, weight, start)
    slope = np.clip(b / scale, -LIMIT, LIMIT)
    separated = _separation(label, x, weight)
    return np.asarray(np.where(separated == 0, slope, separated * LIMIT))


def _logistic(
    z: FloatArray, label: FloatArray, weight: FloatArray, start: FloatArray
) -> FloatArray:
    """Return intercepts and slopes `(2, r)` of weighted logistic regressions on one variable.

    Args:
        z: `(m,)` the variable.
        label: `(m,)` of 0/1.
        weight: `(m, r)`.
        start: `(2, r)`, or `(2, 1)` for all.
    """
    powers = np.stack([np.ones_like(z), z, z * z])
    observed = (powers[:2] * label) @ weight
    a, b = start
    for _ in range(NEWTON_STEPS):
        p = expit(a + z[:, None] * b)
        if len(a) == 1:  # one point for all replicates: only the weights differ
            p = p[:, 0]
            g0, g1 = (powers[:2] * (label - p)) @ weight
            h00, h01, h11 = (powers * (p * (1 - p))) @ weight
        else:
            fitted = weight * p
            g0, g1 = observed - powers[:2] @ fitted
            p *= fitted
            fitted -= p
            h00, h01, h11 = powers @ fitted
        # Weights that leave one score, or certain predictions, make the two columns one.
        determinant = np.maximum(h00 * h11 - h01**2, 1e-12 * h00 * h11 + 1e-300)
        step0 = np.clip((h11 * g0 - h01 * g1) / determinant, -STEP, STEP)
        step1 = np.clip((h00 * g1 - h01 * g0) / determinant, -STEP, STEP)
        a, b = a + step0, b + step1
        # Newton squares the error, so the next step would be below 1e-10.
        if max(np.abs(step0).max(), np.abs(step1).max()) < 1e-5:
            break
    return np.stack([a, b])


def _separation(label: FloatArray, x: FloatArray, weight: FloatArray) -> FloatArray:
    """Return per replicate 1 (or -1) where all positives lie above (below) all negatives."""
    counted = weight > 0
    positive, negative = counted & (label == 1)[:, None], counted & (label == 0)[:, None]
    column = x[:, None]
    low_positive = np.where(positive, column, np.inf).min(axis=0)
    high_positive = np.where(positive, column, -np.inf).max(axis=0)
    low_negative = np.where(negative, column, np.inf).min(axis=0)
    high_negative = np.where(negative, column, -np.inf).max(axis=0)
    above = (low_positive >= high_negative) & (high_positive > low_negative)
    below = (high_positive <= low_negative) & (low_positive < high_negative)
    return np.asarray(above.astype(np.float64) - below)


def calibration_intercept(label: FloatArray, score: FloatArray, weight: FloatArray) -> FloatArray:
    """Return a of logit P(y=1) = a + logit(score), calibration in the large; 0 is ideal.

    Above 0 the probabilities are too low. The slope is held at 1 (Van Calster et al. 2019).

    Args:
        label: `(m,)` of 0/1, both present.
        score: `(m,)` probabilities.
        weight: `(m, r)`, not negative.

    Returns:
        `(r,)` intercepts.
    """
    x = log_odds(score)[:, None]
    a = np.zeros(weight.shape[1])
    for _ in range(NEWTON_STEPS):
        p = expit(a + x)
        gradient = (weight * (label[:, None] - p)).sum(axis=0)
        curvature = (weight * p * (1 - p)).sum(axis=0)
        step = np.clip(gradient / np.maximum(curvature, 1e-300), -STEP, STEP)
        a = a + step
        if np.abs(step).max() < 1e-6:
            break
    return np.asarray(np.clip(a, -LIMIT, LIMIT))
