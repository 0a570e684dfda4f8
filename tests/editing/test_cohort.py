"""Which rows an edit is learned on, in which order, with which weights."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtune.editing.budget import plan
from fairtune.editing.cohort import batch, compact, sample
from fairtune.errors import DataError
from fairtune.usage.weights import even

codes = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 99))
def test_every_pass_has_every_row_once(count: int, size: int, seed: int) -> None:
    size = min(size, count)
    batches = [batch(count, size, k, seed) for k in range(3 * count)]
    assert {len(rows) for rows in batches} == {size}
    drawn = np.concatenate(batches)
    passes = drawn[: len(drawn) // count * count].reshape(-1, count)
    assert all(sorted(one) == list(range(count)) for one in passes.tolist())


def test_passes_and_seeds_have_orders_of_their_own() -> None:
    orders = [batch(100, 100, k, seed).tolist() for k in range(3) for seed in range(3)]
    assert len({tuple(order) for order in orders}) == 9


def test_a_batch_is_no_larger_than_the_rows() -> None:
    assert sorted(batch(5, 32, 7, 0)) == [0, 1, 2, 3, 4]


@given(codes, st.integers(0, 70), st.integers(0, 5))
def test_a_sample_keeps_shares_and_lacks_no_cell(cell: np.ndarray, size: int, number: int) -> None:
    drawn = sample(cell, size, number, 0)
    assert len(set(drawn)) == len(drawn)
    assert list(drawn) == sorted(drawn)
    if not 0 < size < len(cell):
        assert len(drawn) == len(cell)
        return
    kinds = len(set(cell))
    assert len(drawn) == max(size, kinds)
    sizes, found = Counter(cell.tolist()), Counter(cell[drawn].tolist())
    assert set(found) == set(sizes)
    for code, there in sizes.items():
        assert abs(found[code] - there * len(drawn) / len(cell)) < kinds


def test_samples_differ() -> None:
    cell = np.zeros(50, dtype=np.int64)
    drawn = {tuple(sample(cell, 10, number, seed)) for number in range(3) for seed in range(3)}
    assert len(drawn) == 9


@given(codes)
def test_weights_give_every_cell_the_same_say(cell: np.ndarray) -> None:
    weight = even(cell)
    assert weight.mean() == pytest.approx(1)
    totals = [weight[cell == code].sum() for code in set(cell)]
    assert totals == pytest.approx([len(cell) / len(totals)] * len(totals))


def test_weights_of_two_groups_and_classes_are_a_quarter_over_the_share() -> None:
    cell = np.array([0] * 45 + [1] * 5 + [2] * 5 + [3] * 45)
    share = np.bincount(cell) / 100
    np.testing.assert_allclose(even(cell), 0.25 / share[cell])


def test_rows_of_no_cell_weigh_one() -> None:
    np.testing.assert_allclose(even(np.array([-1, 0, 0, 0, 1])), [1, 2 / 3, 2 / 3, 2 / 3, 2])
    np.testing.assert_allclose(even(np.array([-1, -1])), [1, 1])


def test_groups_that_have_rows_are_counted_anew() -> None:
    group, names = compact(np.array([3, -1, 1, 3]), ("a", "b", "c", "d"), "age", "rows")
    assert group.tolist() == [1, -1, 0, 1]
    assert names == ("b", "d")


def test_one_group_is_refused_with_the_counts() -> None:
    with pytest.raises(DataError, match="fewer than two groups among the rows") as fault:
        compact(np.array([1, -1, 1]), ("a", "b"), "age", "rows")
    assert fault.value.found == {"a": 0, "b": 2, "unknown": 1}


@given(st.integers(0, 400), st.integers(1, 40), st.integers(0, 30), st.integers(0, 60))
def test_a_plan_spends_the_budget_and_no_more(
    budget: int, step: int, every: int, refit: int
) -> None:
    made = plan(budget, step, every, refit)
    spent = made.steps * step + len(made.refits) * refit
    assert spent <= budget < spent + step
    assert all(at % every == 0 and 0 < at < made.steps for at in made.refits)
    if not made.refits:
        assert made.steps == budget // step


def test_a_plan_refits_as_long_as_it_can() -> None:
    # 2 steps, refit, 2 steps, refit, 2 steps: 6 + 10; a third refit would not leave a step.
    assert plan(21, 1, 2, 5).refits == (2, 4)
    assert plan(21, 1, 2, 5).steps == 11
    assert plan(9, 0, 2, 5).steps == 0
