"""How good each finished trial was, on one scale, pruned trials among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

Vector = NDArray[np.float64]
_FLAT = 1e-12


def learnable(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that tell something: complete ones, and pruned ones with a rung."""
    return [
        t
        for t in sorted(trials, key=lambda t: t.number)
        if t.params
        and (
            t.state is TrialState.COMPLETE
            or (t.state is TrialState.PRUNED and t.intermediate_values)
        )
    ]


def standings(trials: Sequence[FrozenTrial], direction: StudyDirection) -> Vector:
    r"""Return `(trials,)` standings in standard deviations, higher is better.

    At its highest rung `e` a pruned trial with score `s` stands at `m + d (s - mean_e) / sd_e`,
    with mean and SD over all that reached the rung. `m` and `d` are mean and SD of the standings
    that those trials had at the rungs before, 0 and 1 at the first; the objective is the last
    rung, of the complete trials. So a pruned trial is compared with those that were judged when
    it was, and survivors, a selected few, are not taken for average.

    Args:
        trials: As `learnable` returns them.
        direction: Of the one objective.
    """
    sign = 1.0 if direction is StudyDirection.MAXIMIZE else -1.0
    scores = [{e: sign * s for e, s in t.intermediate_values.items()} for t in trials]
    found = np.full(len(trials), np.nan)
    for rung in sorted({epoch for score in scores for epoch in score}):
        reached = [i for i, score in enumerate(scores) if rung in score]
        _onto(found, reached, [scores[i][rung] for i in reached])
    done = [i for i, t in enumerate(trials) if t.state is TrialState.COMPLETE]
    _onto(found, done, [sign * float(trials[i].values[0]) for i in done])
    return found


def _onto(found: Vector, members: Sequence[int], scores: Sequence[float]) -> None:
    if not members:
        return
    rows, values = np.asarray(members), np.asarray(scores, dtype=float)
    known = ~np.isnan(found[rows])
    if known.sum() < 2:
        known[:] = False
    here = values[known] if known.any() else values
    before = found[rows[known]] if known.any() else None
    middle, spread = (0.0, 1.0) if before is None else (before.mean(), before.std())
    width = here.std()
    found[rows] = middle + (spread * (values - here.mean()) / width if width > _FLAT else 0.0)
