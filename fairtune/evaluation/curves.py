"""Weighted ranking metrics, for many weightings of the same rows at once.

Weights have shape `(rows, replicates)`, so that one sort of the scores serves every replicate.
Whole-number weights give what repeating the rows would give.
"""

from __future__ import annotations

import numpy as np

from fairtune.evaluation.arrays import FloatArray


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
    negative, positive = np.flatnonzero(label != 1), np.flatnonzero(label == 1)
    negative = negative[np.argsort(score[negative], kind="stable")]
    ordered = score[negative]
    upto = np.zeros((len(negative) + 1, weight.shape[1]))
    np.cumsum(weight[negative], axis=0, out=upto[1:])
    first, last = (np.searchsorted(ordered, score[positive], side) for side in ("left", "right"))
    # What lies below each positive, tied negatives counting one half.
    below = upto[first]
    if (first != last).any():
        below = 0.5 * (below + upto[last])
    own = weight[positive]
    return np.asarray(np.einsum("pr,pr->r", own, below) / (own.sum(axis=0) * upto[-1]))


def average_precision(label: FloatArray, score: FloatArray, weight: FloatArray) -> FloatArray:
    """Return the weighted average precision, sum_t (R_t - R_{t-1}) P_t over distinct scores.

    Args:
        label: `(m,)` of 0/1, positives with positive weight in every replicate.
        score: `(m,)` real scores.
        weight: `(m, r)`, not negative.

    Returns:
        `(r,)` values in [0, 1].
    """
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    called = weight[order]
    positive = called * label[order, None]
    if len(starts) < len(order):
        positive = np.add.reduceat(positive, starts, axis=0)
        called = np.add.reduceat(called, starts, axis=0)
    np.cumsum(called, axis=0, out=called)
    hits = np.cumsum(positive, axis=0)
    # Rows of no weight at the top leave 0 / 0, which the zero step in recall cancels.
    called[called <= 0] = 1.0
    total = hits[-1].copy()
    hits /= called
    return np.asarray(np.einsum("tr,tr->r", positive, hits) / total)
