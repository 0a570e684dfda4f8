"""The order of recipes, and the best run of each baseline."""

from __future__ import annotations

import pytest
from kit_plan import CHANCE, CONSTANT, row

from fairtune.study.rank import best_baselines, is_unusable, ranked
from fairtune.study.rows import Row


def order(rows: list[Row], sign: int = 1) -> list[str]:
    return [entry.digest for entry in ranked(rows, sign)]


def test_the_best_mean_comes_first_in_either_direction() -> None:
    rows = [row(0, "a", 0.6), row(1, "b", 0.8), row(2, "c", 0.7), row(3, "d", None)]
    assert order(rows) == ["b", "c", "a"]
    assert order(rows, -1) == ["a", "c", "b"]
    assert ranked([], 1) == []


def test_the_luckiest_run_does_not_win() -> None:
    rows = [
        row(0, "lucky", 0.90),
        row(1, "lucky", 0.50),
        row(2, "sound", 0.78),
        row(3, "sound", 0.77),
    ]
    assert order(rows) == ["sound", "lucky"]
    top = ranked(rows, 1)[0]
    assert top.mean == pytest.approx(0.775)
    assert [r.number for r in top.rows] == [2, 3]


def test_one_run_of_many_is_drawn_to_the_mean_by_seed_noise() -> None:
    rows = [row(i, f"d{i}", 0.6) for i in range(4)]
    rows += [row(10, "once", 0.75)]
    rows += [row(20 + i, "often", v) for i, v in enumerate((0.80, 0.68, 0.74))]
    entries = {entry.digest: entry for entry in ranked(rows, 1)}
    assert entries["once"].mean > entries["often"].mean
    assert entries["often"].shrunk > entries["once"].shrunk


def test_equal_means_keep_the_order_of_their_first_run() -> None:
    assert order([row(3, "b", 0.7), row(1, "a", 0.7), row(2, "c", 0.7)]) == ["a", "c", "b"]


def test_degenerate_recipes_come_after_all_others_and_constant_ones_last() -> None:
    rows = [
        row(0, "constant", 0.99, why=CONSTANT),
        row(1, "chance", 0.95, why=CHANCE),
        row(2, "good", 0.55),
    ]
    assert order(rows) == ["good", "chance", "constant"]
    assert order(rows, -1) == ["good", "chance", "constant"]
    assert [entry.unusable for entry in ranked(rows, 1)] == [False, False, True]


def test_only_the_result_that_speaks_for_a_key_counts() -> None:
    rows = [row(0, "a", 0.9, key="k"), row(1, "a", 0.1, key="k", attempt=1, root=0)]
    assert ranked(rows, 1)[0].mean == 0.9


@pytest.mark.parametrize("sign", [1, -1])
def test_a_baseline_is_its_best_point(sign: int) -> None:
    rows = [
        row(0, "a", 0.6), row(1, "a", 0.7), row(2, "a", 0.65), row(3, "b", 0.5), row(4, "c", None),
    ]  # fmt: skip
    best = best_baselines(rows, sign)
    assert {label: r.number for label, r in best.items()} == {"a": 1 if sign == 1 else 0, "b": 3}


def test_a_constant_point_never_stands_for_a_baseline_that_has_another() -> None:
    # A model that calls everybody ill has the best worst-group TPR there is.
    rows = [row(0, "a", 1.0, why=CONSTANT), row(1, "a", 0.9, why=CHANCE), row(2, "a", 0.4)]
    assert best_baselines(rows, 1)["a"].number == 2
    assert best_baselines(rows[:2], 1)["a"].number == 1
    assert best_baselines(rows[:1], 1)["a"].number == 0


def test_unusable_is_constant_not_near_chance() -> None:
    assert [is_unusable(why) for why in (None, CHANCE, CONSTANT)] == [False, False, True]
