"""The rule that ends a search which no longer gets better, on rows that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from kit_plan import CONSTANT, row

from fairtune.study.rows import Row
from fairtune.study.stopping import settled


def rows_of(values: Sequence[float], start: int = 0) -> list[Row]:
    return [row(start + i, f"d{start + i}", value) for i, value in enumerate(values)]


def replicates(sd: float, start: int = 0) -> list[Row]:
    """Two poor recipes with two runs each, sd apart from their means."""
    return [row(start + i, f"r{i // 2}", 0.1 + sd * (-1) ** i / 2**0.5) for i in range(4)]


FLAT = [0.5 - 0.001 * i for i in range(40)]


def test_a_search_in_which_nothing_rises_is_over_after_twice_the_start_and_the_window() -> None:
    ends = [n for n in range(41) if settled(rows_of(FLAT[:n]), [1], 10)]
    assert ends[0] == 20
    assert ends == list(range(20, 41))
    assert settled(rows_of(FLAT[:29]), [1], 15) is None
    assert settled(rows_of(FLAT[:30]), [1], 15) is not None
    assert settled(rows_of([-v for v in FLAT]), [-1], 10) is not None
    assert settled(rows_of([-v for v in FLAT]), [1], 10) is None


def test_the_reason_names_the_window_and_what_is_known_of_the_noise() -> None:
    said = settled(rows_of(FLAT), [1], 10)
    assert said == (
        "budget.stop: auto: in the last 15 of 40 trials nothing rose by more than 0, the SD "
        "between seeds being unknown"
    )
    long = settled([*replicates(0.01), *rows_of([0.5] * 96, 4)], [1], 10)
    assert long is not None
    assert "in the last 25 of 100 trials" in long
    assert "half the SD of seeds" in long


@pytest.mark.parametrize(("rise", "over"), [(0.015, True), (0.06, False)])
def test_a_rise_counts_from_half_the_noise_of_seeds_on(rise: float, over: bool) -> None:
    # Means are shrunk, so the rises stand well on either side of half of 0.05.
    values = [*np.linspace(0.3, 0.5, 20), 0.5 + rise, *[0.4] * 14]
    found = settled([*replicates(0.05), *rows_of(values, 4)], [1], 10)
    assert (found is not None) is over


def test_runs_that_have_not_ended_and_those_tried_again_are_not_counted() -> None:
    rows = rows_of(FLAT[:19])
    running = replace(row(19, "x", None), state="running")
    again = replace(row(19, "x", None), retryable=True, reason="error")
    failed = replace(row(19, "x", None), reason="nan")
    assert settled([*rows, running], [1], 10) is None
    assert settled([*rows, again], [1], 10) is None
    assert settled([*rows, failed], [1], 10) is not None


def test_constant_predictions_and_broken_constraints_are_no_rise() -> None:
    best = row(25, "d25", 0.9)
    rows = [r for r in rows_of(FLAT) if r.number != 25]
    assert settled([*rows, best], [1], 10) is None
    assert settled([*rows, row(25, "d25", 0.9, why=CONSTANT)], [1], 10) is not None
    assert settled([*rows, replace(best, constraints={"c": 0.1})], [1], 10) is not None


def test_the_first_recipe_that_keeps_the_constraints_is_a_rise_whatever_its_value() -> None:
    rows = [replace(r, constraints={"c": 0.1}) for r in rows_of(FLAT)]
    assert settled(rows, [1], 10) is not None
    rows[30] = replace(rows[30], constraints={"c": 0.0})
    assert settled(rows, [1], 10) is None


def test_with_several_objectives_a_new_trade_off_is_a_rise() -> None:
    ends = [replace(r, values=(v, 1 - v)) for r, v in zip(rows_of(FLAT), [0.0, 1.0] * 20)]
    assert settled(ends, [1, 1], 10) is not None
    between = replace(ends[30], values=(0.6, 0.6))
    assert settled([*ends[:30], between, *ends[31:]], [1, 1], 10) is None
    worse = replace(ends[30], values=(0.0, 0.9))
    assert settled([*ends[:30], worse, *ends[31:]], [1, 1], 10) is not None


def test_it_does_not_depend_on_the_order_in_which_rows_are_read() -> None:
    rows = [*replicates(0.05), *rows_of([*np.linspace(0.3, 0.5, 24), 0.52, *[0.4] * 10], 4)]
    assert settled(rows, [1], 10) == settled(rows[::-1], [1], 10)
