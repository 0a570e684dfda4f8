"""Weighted ranking metrics, for many weightings of the same rows at once.

Weights have shape `(rows, replicates)`, so that one sort of the scores serves every replicate.
Whole-number weights give what repeating the rows would give.
"""

from __future__ import annotations

import numpy as np

from fairtune.evaluation.arrays import FloatArray, IntArray


def auc(label: FloatArray, score: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the weighted area under the ROC curve, ties counting one half.

    AUC = sum_{i pos, j neg} w_i w_j ([s_i > s_j] + [s_i = s_j] / 2) / (W_pos W_neg).

    Args:
        label: `(m,)` of 0/1, both present with positive weight in every replicate.
        score: `(m,)` real scores.
        weight: `(m, r)`, not negative.

    Returns:
        `(r,)` values in [0, 1].
    """
    order, starts = _tied(score)
    positive, negative = _by_tie(label, weight, order, starts)
    below = np.cumsum(negative, axis=0)
    below -= 0.5 * negative
    total = positive.sum(axis=0) * negative.sum(axis=0)
    return np.asarray(np.einsum("tr,tr->r", positive, below) / total)


def average_precision(label: FloatArray, score: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the weighted average precision, sum_t (R_t - R_{t-1}) P_t over distinct scores.

    Args:
        label: `(m,)` of 0/1, positives with positive weight in every replicate.
        score: `(m,)` real scores.
        weight: `(m, r)`, not negative.

    Returns:
        `(r,)` values in [0, 1].
    """
    order, starts = _tied(-score)
    positive, negative = _by_tie(label, weight, order, starts)
    hits = np.cumsum(positive, axis=0)
    called = hits + np.cumsum(negative, axis=0)
    # Rows of no weight at the top leave 0 / 0, which the zero step in recall cancels.
    precision = hits / np.where(called > 0, called, 1.0)
    return np.asarray(np.einsum("tr,tr->r", positive, precision) / hits[-1])


def _tied(score: FloatArray) -> tuple[IntArray, IntArray]:
    """Return the ascending order of `score` and where each run of equal scores starts in it."""
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return order, starts


def _by_tie(
    label: FloatArray, weight: FloatArray, order: IntArray, starts: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Return the weight of positives and of negatives per run of equal scores, `(t, r)` each."""
    ordered = weight[order]
    positive = ordered * label[order, None]
    negative = ordered - positive
    if len(starts) < len(order):
        positive = np.add.reduceat(positive, starts, axis=0)
        negative = np.add.reduceat(negative, starts, axis=0)
    return positive, negative
