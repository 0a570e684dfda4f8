"""Pareto ranks and crowding against brute force and Optuna's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.study import create_study
from optuna.trial import create_trial

from fairtune.evaluation.pareto import advance, crowding, dominates, front, order, ranks

# Few distinct values, so that ties and copies of a point are common.
POINTS = st.integers(1, 4).flatmap(
    lambda m: st.tuples(
        st.lists(
            st.lists(st.integers(0, 4), min_size=m, max_size=m), min_size=1, max_size=12
        ),
        st.lists(st.sampled_from([1, -1]), min_size=m, max_size=m),
    )
)  # fmt: skip


def beats(a: list[int], b: list[int], signs: list[int]) -> bool:
    pairs = [(s * x, s * y) for x, y, s in zip(a, b, signs)]
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


@settings(max_examples=40)
@given(POINTS)
def test_ranks_are_those_of_peeling_fronts_off(drawn: tuple[list[list[int]], list[int]]) -> None:
    points, signs = drawn
    left, level = set(range(len(points))), 0
    expected = [0] * len(points)
    while left:
        top = {i for i in left if not any(beats(points[j], points[i], signs) for j in left)}
        for i in top:
            expected[i] = level
        left, level = left - top, level + 1
    assert ranks(points, signs).tolist() == expected
    assert dominates(points, signs).tolist() == [
        [beats(a, b, signs) for b in points] for a in points
    ]


@pytest.mark.parametrize("constrained", [False, True])
def test_the_front_is_that_of_optuna(constrained: bool) -> None:
    rng = np.random.default_rng(3)
    values, violations = rng.normal(size=(40, 3)), rng.normal(size=40)
    study = create_study(directions=["maximize", "minimize", "maximize"])
    for row, violation in zip(values, violations):
        limits = {"c": float(violation)} if constrained else {}
        study.add_trial(create_trial(values=row.tolist(), constraints=limits))
    expected = sorted(t.number for t in study.best_trials)
    found = front(values, [1, -1, 1], violations if constrained else None)
    assert np.flatnonzero(found).tolist() == expected


def test_an_infeasible_point_comes_after_every_feasible_one_and_by_its_violation() -> None:
    values = [[9.0, 9.0], [1.0, 1.0], [0.0, 0.0], [8.0, 8.0]]
    assert ranks(values, [1, 1], [0.2, 0.0, -5.0, 0.1]).tolist() == [3, 0, 1, 2]


def test_crowding_is_the_sum_of_the_neighbours_distances() -> None:
    # Ends 0 and 10; 4 lies between 0 and 6, 6 between 4 and 10, and likewise in the second.
    values = [[0, 10], [4, 7], [6, 1], [10, 0]]
    expected = [math.inf, 6 / 10 + 9 / 10, 6 / 10 + 7 / 10, math.inf]
    assert crowding(values) == pytest.approx(expected)
    assert crowding(values[::-1]) == pytest.approx(expected[::-1])
    assert crowding([[1.0, 2.0], [1.0, 2.0]]).tolist() == [0, 0]
    assert crowding(np.empty((0, 2))).shape == (0,)


def test_equal_points_share_a_place_whatever_their_order() -> None:
    values = [[0, 10], [5, 5], [5, 5], [10, 0], [1, 1]]
    assert order(values, [1, 1]).tolist() == [0, 2, 2, 0, 4]
    assert order([[3.0], [1.0], [2.0]], [-1]).tolist() == [2, 0, 1]
    assert ranks(np.empty((0, 2)), [1, 1]).tolist() == []


@settings(max_examples=40)
@given(st.lists(st.floats(-5, 5), min_size=1), st.lists(st.floats(-5, 5), min_size=1))
def test_with_one_objective_the_advance_is_the_rise_of_the_best(
    old: list[float], new: list[float]
) -> None:
    rise = (max(new) - max(old)) / 2
    assert advance([[v] for v in old], [[v] for v in new], [1], [2.0]) == pytest.approx(rise)


def test_a_new_point_between_two_old_ones_advances_the_front() -> None:
    old = [[0.0, 1.0], [1.0, 0.0]]
    assert advance(old, [[0.9, 0.9]], [1, 1], [1, 1]) == pytest.approx(0.9)
    assert advance(old, [[0.0, 0.0]], [1, 1], [1, 1]) <= 0
    assert advance(old, old, [1, 1], [1, 1]) == 0
    assert advance(old, [[-0.5, 1.0]], [-1, 1], [0.25, 1]) == pytest.approx(2.0)
    assert advance([], old, [1, 1], [1, 1]) == math.inf
    assert advance(old, [], [1, 1], [1, 1]) == -math.inf
