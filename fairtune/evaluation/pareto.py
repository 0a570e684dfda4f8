"""Several objectives at once: who dominates whom, who stands alone, how far a front has come.

Points are rows of `values`, `(n, m)`; `signs`, `(m,)`, holds 1 for an objective that is to be
large and -1 for one that is to be small. All values are finite.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairtune.evaluation.arrays import BoolArray, FloatArray

IntArray = NDArray[np.int64]


def dominates(values: ArrayLike, signs: Sequence[float]) -> BoolArray:
    """Return `(n, n)` whether the first point is nowhere worse than the second, somewhere better.

    Args:
        values: `(n, m)`.
        signs: `(m,)`.
    """
    good = _signed(values, signs)
    first, second = good[:, None, :], good[None, :, :]
    return np.asarray((first >= second).all(axis=2) & (first > second).any(axis=2))


def ranks(
    values: ArrayLike, signs: Sequence[float], violations: ArrayLike | None = None
) -> IntArray:
    """Return `(n,)` non-domination ranks, 0 for the front.

    Rank r are the points that nothing dominates once all of smaller rank are taken away. With
    `violations` the comparison is the constrained one of Deb et al. 2002, "A fast and elitist
    multiobjective genetic algorithm: NSGA-II": a feasible point comes before every infeasible
    one, and of two infeasible ones the one that violates less.

    Args:
        values: `(n, m)`.
        signs: `(m,)`.
        violations: `(n,)` total violation of constraints, above 0 where a point is infeasible.
    """
    found = np.full(len(np.asarray(values)), -1, dtype=np.int64)
    if not len(found):
        return found
    beats = dominates(values, signs)
    if violations is not None:
        total = np.maximum(np.asarray(violations, dtype=float), 0.0)
        beats = np.where((total[:, None] == 0) & (total[None, :] == 0), beats, False)
        beats |= total[:, None] < total[None, :]
    level = 0
    while (left := found < 0).any():
        front = left & ~beats[left].any(axis=0)
        found[front] = level
        level += 1
    return found


def front(
    values: ArrayLike, signs: Sequence[float], violations: ArrayLike | None = None
) -> BoolArray:
    """Return `(n,)` whether a point has rank 0; arguments as for `ranks`."""
    return np.asarray(ranks(values, signs, violations) == 0)


def crowding(values: ArrayLike) -> FloatArray:
    r"""Return `(n,)` crowding distances of points of one rank, infinite at the ends.

    $d_i = \sum_j (x_{j,i+1} - x_{j,i-1}) / (\max x_j - \min x_j)$ over the neighbours of point i
    in the order of objective j (Deb et al. 2002). Deviation: equal points share one place in the
    order and one distance, so that it does not depend on the order of rows. An objective in which
    all are equal adds nothing.

    Args:
        values: `(n, m)`.
    """
    points = np.asarray(values, dtype=float)
    total = np.zeros(len(points))
    for column in points.T:
        steps, place = np.unique(column, return_inverse=True)
        if len(steps) < 2:
            continue
        apart = np.full(len(steps), np.inf)
        apart[1:-1] = (steps[2:] - steps[:-2]) / (steps[-1] - steps[0])
        total += apart[place.reshape(-1)]
    return total


def order(
    values: ArrayLike, signs: Sequence[float], violations: ArrayLike | None = None
) -> IntArray:
    """Return `(n,)` places, best first from 0: by rank, then by crowding, the lonely first.

    Points that are equal in both share a place, the number of points before them.
    """
    points = np.asarray(values, dtype=float)
    level = ranks(points, signs, violations)
    lonely = np.zeros(len(points))
    for one in np.unique(level):
        members = level == one
        lonely[members] = crowding(points[members])
    before = (level[:, None] < level[None, :]) | (
        (level[:, None] == level[None, :]) & (lonely[:, None] > lonely[None, :])
    )
    return np.asarray(before.sum(axis=0), dtype=np.int64)


def advance(
    old: ArrayLike, new: ArrayLike, signs: Sequence[float], scale: Sequence[float]
) -> float:
    r"""Return by how many units of `scale` the points `old` must be lifted to cover `new`.

    The additive epsilon indicator of Zitzler et al. 2003, "Performance assessment of
    multiobjective optimizers":
    $\max_{b \in new} \min_{a \in old} \max_j s_j (b_j - a_j) / u_j$.
    With one objective it is the rise of the best value. At most 0 when `old` covers all of `new`;
    minus infinity when `new` is empty, infinity when only `old` is.

    Args:
        old: `(n, m)`.
        new: `(k, m)`.
        signs: `(m,)`.
        scale: `(m,)` units, above 0.
    """
    count = len(signs)
    before = _signed(np.reshape(old, (-1, count)), signs) / np.asarray(scale, dtype=float)
    after = _signed(np.reshape(new, (-1, count)), signs) / np.asarray(scale, dtype=float)
    if not len(after):
        return -np.inf
    if not len(before):
        return np.inf
    lift = (after[:, None, :] - before[None, :, :]).max(axis=2)
    return float(lift.min(axis=1).max())


def _signed(values: ArrayLike, signs: Sequence[float]) -> FloatArray:
    points = np.asarray(values, dtype=float)
    if not len(points):
        return points.reshape(0, len(signs))
    return np.asarray(points * np.asarray(signs, dtype=float))
