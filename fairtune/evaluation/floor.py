"""The noise floor of a disparity: how large it reads when group names mean nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fairtune.evaluation.arrays import FloatArray, IntArray
from fairtune.evaluation.groups import group_rows
from fairtune.evaluation.metrics import Metric
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Attribute, Predictions
from fairtune.evaluation.resampling import CELLS, patient_codes
from fairtune.evaluation.values import Part, Question, reduce

PERMUTATIONS = 500


@dataclass(frozen=True)
class Floor:
    """Mean and 95th percentile of a disparity over permutations of the group names.

    Args:
        mean: What the disparity reads on average when there is none.
        upper: 95th percentile; a disparity below it cannot be told from noise.
        base_rate_gap: Set, with the other two NaN, only where a selection-rate disparity
            has no floor because the groups differ in prevalence.
    """

    mean: float
    upper: float
    base_rate_gap: float = float("nan")


def noise_floor(
    asked: Sequence[Question],
    objective: Objective,
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Floor:
    """Return the floor of a disparity.

    Group names are permuted between patients within strata of the patient's labels, so every
    group keeps its number of patients of each kind and the metric keeps its dependence on
    prevalence. A patient whose rows lie in several groups is cut into one part per group first.
    Selection rates follow prevalence whatever the model does: where prevalence differs by more
    than an unrestricted permutation explains, there is no floor and the base-rate gap is given.

    Args:
        asked: The questions of one table; of several targets the disparities are averaged.
        objective: A disparity (`*_gap`, `*_diff`, `eo_avg`).
        permutations: How many.
        seed: Seed of the permutations.
    """
    assert objective.attribute is not None
    used = [q for q in asked if q.supports(objective)] or list(asked[:1])
    if any(part.name == "selection_rate" for part in objective.parts):
        gap = base_rate_gap(used[0], objective, permutations, seed)
        if gap is not None:
            return Floor(float("nan"), float("nan"), gap)
    drawn = np.mean([_permuted(q, objective, permutations, seed) for q in used], axis=0)
    return Floor(float(drawn.mean()), float(np.quantile(drawn, 0.95)))


def base_rate_gap(q: Question, objective: Objective, permutations: int, seed: int) -> float | None:
    """Return the largest difference in prevalence between groups, None where it may be chance."""
    assert objective.attribute is not None
    attribute = q.p.attribute(objective.attribute)
    eligible = np.flatnonzero(q.eligible(objective.parts[0], attribute))
    rates = [q.p.label[r] for r in (group_rows(attribute)[g] for g in eligible)]
    if q.p.task == "multiclass":
        shares = np.array([np.bincount(r, minlength=q.p.classes) / len(r) for r in rates])
        gap = float(np.ptp(shares, axis=0).max())
    else:
        gap = float(np.ptp([r.mean() for r in rates]))
    by_chance = _label_gaps(q.p, attribute, eligible, permutations, seed)
    return gap if gap > np.quantile(by_chance, 0.95) else None


def _label_gaps(
    p: Predictions, attribute: Attribute, eligible: IntArray, permutations: int, seed: int
) -> FloatArray:
    """Return the prevalence gap under permutations that ignore the labels, `(permutations,)`."""
    onehot = np.eye(p.classes)[p.label]
    gaps = []
    for codes in permuted_codes(p, attribute, permutations, seed, by_label=False):
        inside = np.stack([codes == g for g in eligible]).astype(np.float64)
        size = np.maximum(inside.sum(axis=1), 1.0)
        shares = np.einsum("gnr,nk->gkr", inside, onehot) / size[:, None, :]
        gaps.append(np.ptp(shares, axis=0).max(axis=0))
    return np.concatenate(gaps)


def _permuted(q: Question, objective: Objective, permutations: int, seed: int) -> FloatArray:
    """Return the objective under permutations, `(permutations,)`.

    A permutation is a weighting: the group's figure is that of all rows weighted by membership.
    """
    assert objective.attribute is not None
    attribute = q.p.attribute(objective.attribute)
    drawn = []
    for codes in permuted_codes(q.p, attribute, permutations, seed):
        parts = [_part(q, metric, attribute, codes) for metric in objective.parts]
        drawn.append(reduce(objective, parts))
    return np.concatenate(drawn)


def _part(q: Question, metric: Metric, attribute: Attribute, codes: IntArray) -> Part:
    rows = group_rows(attribute)
    groups = np.stack(
        [
            q.values(metric, [_reach(q, metric, rows[g])], (codes == g).astype(np.float64))[0]
            for g in np.flatnonzero(q.eligible(metric, attribute))
        ]
    )
    return Part(metric, np.empty(0), groups, ())


def _reach(q: Question, metric: Metric, rows: IntArray) -> IntArray:
    """Return all rows of the models that speak for `rows`: everyone where there is one model."""
    if q.p.models == 1:
        return np.arange(len(q.p))
    return np.flatnonzero(np.isin(q.p.model, q.speaking(metric, rows)))


def permuted_codes(
    p: Predictions, attribute: Attribute, permutations: int, seed: int, *, by_label: bool = True
) -> Iterator[IntArray]:
    """Yield group codes permuted between patients, in chunks of `(n, r)`."""
    unit, units = patient_codes(p.patient * (attribute.size + 1) + attribute.codes + 1)
    first = np.unique(unit, return_index=True)[1]
    own = attribute.codes[first]
    kind = _kinds(p, unit, units) if by_label else np.zeros(units, dtype=np.int64)
    # Unknown stays unknown: only the known groups are exchanged.
    kind = np.where(own < 0, -1, kind)
    members = [np.flatnonzero(kind == k) for k in np.unique(kind[kind >= 0])]
    rng = np.random.default_rng(seed)
    size = max(1, CELLS // len(p))
    for start in range(0, permutations, size):
        shuffled = np.tile(own[:, None], (1, min(size, permutations - start)))
        for rows in members:
            shuffled[rows] = rng.permuted(shuffled[rows], axis=0)
        yield shuffled[unit]


def _kinds(p: Predictions, unit: IntArray, units: int) -> IntArray:
    """Return a code per unit for the set of labels (in each stratum or model) among its rows."""
    size, place = p.classes, p.label
    if p.models > 1:
        size, place = size * p.models, place + p.classes * p.model
    if p.strata is not None:
        size, place = size * (p.strata.size + 1), place + p.classes * (p.strata.codes + 1)
    held = np.zeros((units, size), dtype=np.int64)
    held[unit, place] = 1
    return np.asarray(np.unique(held, axis=0, return_inverse=True)[1]).reshape(-1)
