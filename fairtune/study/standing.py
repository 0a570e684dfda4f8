"""How good each finished trial was, on one scale, pruned trials among them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fairtune.study.codec import RUNGS, is_one
from fairtune.study.form import Form, chebyshev
from fairtune.study.rows import Score

Vector = NDArray[np.float64]
Scalar: TypeAlias = Callable[[Vector], Vector]
"""Makes one number, higher is better, of each of `(n, m)` points, higher is better."""

_FLAT = 1e-12


def signs_of(directions: Sequence[StudyDirection]) -> tuple[float, ...]:
    """Return 1 per direction that is up, -1 per one that is down."""
    return tuple(1.0 if d is StudyDirection.MAXIMIZE else -1.0 for d in directions)


def learnable(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that tell something: complete ones, and pruned ones with a rung."""
    ordered = sorted(trials, key=lambda t: t.number)
    return [t for t in ordered if t.params and _told(t)]


def _told(trial: FrozenTrial) -> bool:
    if trial.state is TrialState.PRUNED:
        return bool(trial.intermediate_values) or RUNGS in trial.system_attrs
    return trial.state is TrialState.COMPLETE


def along(objective: int) -> Scalar:
    """Return what sees one objective alone."""
    return lambda points: points[:, objective]


def towards(weights: Sequence[float]) -> Scalar:
    """Return augmented Chebyshev numbers of objectives in units of their SD over the points."""

    def scalar(points: Vector) -> Vector:
        width = points.std(axis=0)
        return chebyshev(points / np.where(width > _FLAT, width, 1.0), weights)

    return scalar


def standings(
    trials: Sequence[FrozenTrial],
    directions: Sequence[StudyDirection],
    scalar: Scalar | None = None,
) -> Vector:
    r"""Return `(trials,)` standings in standard deviations, higher is better.

    At its highest rung `e` a pruned trial with score `s` stands at `m + d (s - mean_e) / sd_e`,
    with mean and SD over all that reached the rung. `m` and `d` are mean and SD of the standings
    that those trials had at the rungs before, 0 and 1 at the first; the objective is the last
    rung, of the complete trials. So a pruned trial is compared with those that were judged when
    it was, and survivors, a selected few, are not taken for average.

    A trial that violates constraints stands behind all that do not, on average one SD behind the
    worst of them, in proportion to what it violates.

    Args:
        trials: As `learnable` returns them.
        directions: One per objective.
        scalar: Makes one number of several objectives, at each rung and at the end.
    """
    signs = signs_of(directions)
    scores = [_rungs(t, signs) for t in trials]
    found = np.full(len(trials), np.nan)
    for epoch, one in sorted({(e, is_one(s)) for score in scores for e, s in score.items()}):
        reached = [i for i, s in enumerate(scores) if epoch in s and is_one(s[epoch]) == one]
        _onto(found, reached, _numbers([scores[i][epoch] for i in reached], scalar))
    done = [i for i, t in enumerate(trials) if t.state is TrialState.COMPLETE]
    if done:
        ends = _numbers([_signed(trials[i], signs) for i in done], scalar)
        _onto(found, done, _behind(ends, [trials[i].constraints for i in done]))
    return found


def as_one(trials: Sequence[FrozenTrial], signs: Sequence[float], form: Form) -> list[FrozenTrial]:
    """Return trials of several objectives as those of one that is to be large.

    Args:
        trials: From `codec.for_sampler`.
        signs: Per objective 1 when higher is better, -1 when lower is.
        form: Makes one number of them, among the complete trials, and at each rung among those
            that reached it.
    """
    shown = [copy.copy(t) for t in trials]
    levels: dict[int, list[int]] = {}
    for i, trial in enumerate(trials):
        rungs: Mapping[int, Score] = trial.system_attrs.get(RUNGS, {})
        shown[i].intermediate_values = {e: s for e, s in rungs.items() if is_one(s)}
        for epoch in [e for e, s in rungs.items() if not is_one(s)]:
            levels.setdefault(epoch, []).append(i)
        if trial.state is TrialState.PRUNED:
            shown[i].values = None
    for epoch, reached in levels.items():
        points = [trials[i].system_attrs[RUNGS][epoch] for i in reached]
        for i, number in zip(reached, form.scalar(points).tolist()):
            shown[i].intermediate_values[epoch] = number
    done = [i for i, t in enumerate(trials) if t.state is TrialState.COMPLETE]
    ends = form.scalar([_signed(trials[i], signs) for i in done]).tolist() if done else []
    for i, number in zip(done, ends):
        shown[i].values = [number]
    return shown


def _rungs(trial: FrozenTrial, signs: Sequence[float]) -> Mapping[int, Score]:
    if len(signs) == 1:
        return {e: signs[0] * s for e, s in trial.intermediate_values.items()}
    rungs: Mapping[int, Score] = trial.system_attrs.get(RUNGS, {})
    return rungs


def _signed(trial: FrozenTrial, signs: Sequence[float]) -> tuple[float, ...]:
    return tuple(sign * float(value) for sign, value in zip(signs, trial.values, strict=True))


def _numbers(scores: Sequence[Score], scalar: Scalar | None) -> Vector:
    points = np.asarray(scores, dtype=float).reshape(len(scores), -1)
    if points.shape[1] == 1:
        return points[:, 0]
    assert scalar is not None
    return scalar(points)


def _behind(ends: Vector, constraints: Sequence[Mapping[str, float]]) -> Vector:
    """Return `ends` with those that violate constraints moved behind all others."""
    total = np.array([sum(max(0.0, v) for v in each.values()) for each in constraints])
    broken = total > 0
    if not broken.any():
        return ends
    kept = ends[~broken]
    worst, width = (kept.min(), kept.std()) if len(kept) else (0.0, 0.0)
    step = width if width > _FLAT else 1.0
    return np.asarray(np.where(broken, worst - step * total / total[broken].mean(), ends))


def _onto(found: Vector, members: Sequence[int], values: Vector) -> None:
    if not members:
        return
    rows = np.asarray(members)
    known = ~np.isnan(found[rows])
    if known.sum() < 2:
        known[:] = False
    here = values[known] if known.any() else values
    before = found[rows[known]] if known.any() else None
    middle, spread = (0.0, 1.0) if before is None else (before.mean(), before.std())
    width = here.std()
    found[rows] = middle + (spread * (values - here.mean()) / width if width > _FLAT else 0.0)
