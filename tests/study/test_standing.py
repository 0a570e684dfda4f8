"""How finished trials are ranked when some were pruned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kit_ledger import SPACE, trial
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fairtune.study.codec import RUNGS
from fairtune.study.form import Form
from fairtune.study.standing import along, as_one, learnable, standings, towards

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


def several(number: int, values: list[float] | None, rungs: dict[int, Any]) -> FrozenTrial:
    state = TrialState.PRUNED if values is None else TrialState.COMPLETE
    made = trial(number, {"depth": 3}, SPACE, values, state)
    if rungs:
        made.system_attrs[RUNGS] = rungs
    return made


TWO = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]


def test_each_objective_has_a_standing_of_its_own() -> None:
    values = [[0.2, 3.0], [0.9, 1.0], [0.5, 9.0], [0.4, 2.0]]
    trials = [several(i, v, {}) for i, v in enumerate(values)]
    for j, sign in enumerate((1, -1)):
        column = sign * np.array(values)[:, j]
        expected = (column - column.mean()) / column.std()
        assert standings(trials, TWO, along(j)) == pytest.approx(expected)


def test_weights_say_which_objective_a_standing_is_for() -> None:
    values = [[0.9, 9.0], [0.1, 1.0], [0.6, 4.0]]
    trials = [several(i, v, {}) for i, v in enumerate(values)]
    assert standings(trials, TWO, towards([0.99, 0.01])).argmax() == 0
    assert standings(trials, TWO, towards([0.01, 0.99])).argmax() == 1
    assert standings(trials, TWO, towards([0.5, 0.5])).argmax() == 2
    # In units of the SD: a hundred times the numbers, the same standings.
    scaled = [several(i, [v[0], 100 * v[1]], {}) for i, v in enumerate(values)]
    for weights in ([0.3, 0.7], [0.8, 0.2]):
        assert standings(scaled, TWO, towards(weights)) == pytest.approx(
            standings(trials, TWO, towards(weights))
        )


def test_a_pruned_trial_of_several_objectives_stands_among_those_of_its_rungs() -> None:
    trials = [
        several(0, [5.0, 1.0], {2: -0.3, 6: (5.0, -1.0)}),
        several(1, [8.0, 2.0], {2: -0.2, 6: (7.0, -2.0)}),
        several(2, None, {2: -0.9}),
        several(3, None, {2: -0.25, 6: (4.0, -3.0)}),
    ]
    assert [t.number for t in learnable(trials)] == [0, 1, 2, 3]
    for scalar in (along(0), along(1), towards([0.5, 0.5])):
        found = standings(trials, TWO, scalar)
        assert found.argmin() == 2
        assert found[3] < min(found[0], found[1])


def test_trials_that_break_constraints_stand_behind_all_others() -> None:
    values = [0.2, 0.4, 0.9, 0.95]
    trials = [complete(i, v) for i, v in enumerate(values)]
    for t, violations in zip(trials, ([-0.1], [0.0], [0.1, -9.0], [0.2, 0.1])):
        t.system_attrs["constraints"] = violations
    # The worst that holds is 0.2, their SD 0.1; totals 0.1 and 0.3 are on average 0.2.
    expected = np.array([0.2, 0.4, 0.2 - 0.1 * 0.5, 0.2 - 0.1 * 1.5])
    found = standings(trials, UP)
    assert found == pytest.approx((expected - expected.mean()) / expected.std())
    for t in trials:
        t.system_attrs["constraints"] = [0.5 + t.number]
    assert standings(trials, UP).argsort().tolist() == [3, 2, 1, 0]


def test_as_one_number_values_and_rungs_are_of_the_form() -> None:
    form = Form("weighted", (0.75, 0.25))
    trials = [
        several(0, [5.0, 1.0], {2: -0.3, 6: (4.0, -2.0)}),
        several(1, None, {2: -0.9, 6: (2.0, -1.0)}),
        trial(2, {"depth": 1}, SPACE, None, TrialState.RUNNING),
    ]
    shown = as_one(trials, [1.0, -1.0], form)
    assert [t.values for t in shown] == [[3.5], None, None]
    assert shown[0].intermediate_values == pytest.approx({2: -0.3, 6: 2.5})
    assert shown[1].intermediate_values == pytest.approx({2: -0.9, 6: 1.25})
    assert trials[0].values == [5.0, 1.0]
    assert trials[0].intermediate_values == {}
