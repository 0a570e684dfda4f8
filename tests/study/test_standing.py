"""How finished trials are ranked when some were pruned."""

from __future__ import annotations

import numpy as np
import pytest
from kit_ledger import SPACE, trial
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fairtune.study.standing import learnable, standings

UP, DOWN = [StudyDirection.MAXIMIZE], [StudyDirection.MINIMIZE]


def complete(number: int, value: float, steps: dict[int, float] | None = None) -> FrozenTrial:
    return trial(number, {"depth": 3}, SPACE, [value], steps=steps)


def pruned(number: int, steps: dict[int, float]) -> FrozenTrial:
    return trial(number, {"depth": 3}, SPACE, None, TrialState.PRUNED, steps)


def test_trials_that_say_nothing_are_left_out() -> None:
    told = [
        complete(3, 0.5),
        pruned(1, {2: 0.1}),
        trial(0, {"depth": 1}, SPACE, None, TrialState.FAIL),
        trial(4, {"depth": 1}, SPACE, None, TrialState.PRUNED),
        trial(5, {"depth": 1}, SPACE, None, TrialState.RUNNING),
        trial(6, {}, SPACE, [0.3]),
    ]
    assert [t.number for t in learnable(told)] == [1, 3]


@pytest.mark.parametrize("sign", [1, -1])
def test_without_rungs_a_standing_is_the_standardised_objective(sign: int) -> None:
    values = [0.2, 0.9, 0.5, 0.4]
    found = standings(
        [complete(i, sign * v) for i, v in enumerate(values)], UP if sign == 1 else DOWN
    )
    assert found == pytest.approx((np.array(values) - 0.5) / np.std(values))


def test_a_pruned_trial_is_compared_with_those_judged_at_its_rung() -> None:
    # Rung 2 has SD 2: the survivors stand at 0 and 1.5 there, the pruned one at -1.5. Their
    # objectives, on quite another scale, are put on mean and spread of the survivors.
    trials = [
        complete(0, 100.0, {2: 5.0}),
        complete(1, 300.0, {2: 8.0}),
        pruned(2, {2: 2.0}),
    ]
    step = 3 / np.std([5, 8, 2])
    assert standings(trials, UP) == pytest.approx([0.0, step, -step])


def test_survivors_are_not_taken_for_average() -> None:
    rng = np.random.default_rng(0)
    skill = rng.standard_normal(60)
    cut = np.median(skill)
    trials = [
        complete(i, 10 + s, {1: s + 0.01}) if s > cut else pruned(i, {1: s + 0.01})
        for i, s in enumerate(skill)
    ]
    found = standings(trials, UP)
    assert found == pytest.approx((skill - skill.mean()) / skill.std())


def test_a_rung_at_which_all_are_equal_and_a_rung_of_one_say_nothing() -> None:
    flat = [complete(0, 0.5, {1: 0.3}), complete(1, 0.5, {1: 0.3}), pruned(2, {1: 0.3})]
    assert standings(flat, UP) == pytest.approx([0, 0, 0])
    alone = [pruned(0, {4: 0.3}), complete(1, 0.1), complete(2, 0.3)]
    assert standings(alone, UP) == pytest.approx([0, -1, 1])
    assert standings([], UP).shape == (0,)
