from __future__ import annotations

import itertools
from typing import Any

import pytest

from fairtune.training.cuts import LEAST_SECONDS, READ, WRITE, Cost, choose


def cost(**changes: Any) -> Cost:
    given = {
        "rows": 1000,
        "made": 1000,
        "epochs": 4,
        "block_seconds": 1e-3,
        "row_bytes": 40_000,
        "free_bytes": 1e12,
    }
    return Cost(**(given | changes))


def gain(cuts: tuple[int, ...], starts: dict[int, float], of: Cost) -> float:
    """The definition, by hand."""
    total = 0.0
    for first, runs in starts.items():
        usable = [cut for cut in cuts if cut <= first]
        if usable:
            a_row = max(usable) * of.block_seconds - of.row_bytes / READ
            total += runs * max(0.0, of.rows * of.epochs * a_row)
    for cut in cuts:
        total -= of.rows * (cut * of.block_seconds + of.row_bytes / WRITE)
    return total


def test_the_best_set_is_found() -> None:
    starts = {0: 9.0, 2: 4.0, 3: 1.0, 5: 2.0, 6: 1.0, 9: 3.0, 11: 1.0}
    found = choose(starts, cost())
    sets = itertools.chain.from_iterable(itertools.combinations(range(1, 12), n) for n in range(5))
    best = max(sets, key=lambda cuts: gain(cuts, starts, cost()))
    assert gain(found.cuts, starts, cost()) == pytest.approx(gain(best, starts, cost()))
    assert found.seconds == pytest.approx(gain(found.cuts, starts, cost()))
    assert len(found.cuts) <= 4
    assert found.runs == 21.0
    assert found.gib == pytest.approx(len(found.cuts) * 1000 * 40_000 / 2**30)


def test_a_run_uses_the_last_cut_before_what_trains() -> None:
    found = choose({3: 5.0, 9: 5.0}, cost())
    assert found.cuts == (3, 9)
    assert [found.below(first) for first in (0, 2, 3, 8, 9, 12)] == [0, 0, 3, 3, 9, 9]


def test_deep_networks_get_their_cuts_one_by_one() -> None:
    starts = dict.fromkeys(range(40), 1.0)
    found = choose(starts, cost())
    assert len(found.cuts) == 4
    assert found.seconds > 0.9 * gain((8, 16, 24, 32), starts, cost())


@pytest.mark.parametrize(
    ("starts", "changes"),
    [
        ({0: 5.0}, {}),
        ({}, {}),
        ({9: 0.0}, {}),
        ({9: 5.0}, {"free_bytes": 1.0}),
        ({9: 1.0}, {"epochs": 1}),
        ({9: 5.0}, {"row_bytes": 10**9}),
        ({9: 5.0}, {"rows": 20, "block_seconds": 1e-5}),
    ],
)
def test_what_does_not_pay_is_not_kept(starts: dict[int, float], changes: dict[str, Any]) -> None:
    found = choose(starts, cost(**changes))
    assert found.cuts == ()
    assert found.below(12) == 0
    assert found.gib == 0.0


def test_room_bounds_the_number_of_cuts() -> None:
    size = 1000 * 40_000
    starts = {3: 5.0, 6: 5.0, 9: 5.0}
    assert len(choose(starts, cost(free_bytes=2.5 * size)).cuts) == 2
    assert len(choose(starts, cost(free_bytes=3.0 * size)).cuts) == 3


def test_a_small_gain_is_not_worth_a_file() -> None:
    # One run of two passes: it saves one pass through the blocks, less reading and writing.
    seconds = LEAST_SECONDS / 1e-3
    assert choose({1: 1.0}, cost(epochs=2, row_bytes=1, rows=int(1.1 * seconds))).cuts == (1,)
    assert choose({1: 1.0}, cost(epochs=2, row_bytes=1, rows=int(0.9 * seconds))).cuts == ()


def test_the_numbers_are_told() -> None:
    told = choose({9: 5.0}, cost()).to_json()
    assert told["cuts"] == [9]
    assert told["runs"] == 5.0
    assert (told["rows"], told["epochs"], told["bytes_a_row"]) == (1000, 4, 40_000)
    assert told["microseconds_a_row_and_block"] == 1000.0
    assert told["gain_seconds"] > 0


def test_fixed_copies_cost_more_to_make_and_save_no_more() -> None:
    plain, copied = cost(), cost(made=4000)
    assert copied.making(6) == pytest.approx(4 * plain.making(6))
    assert copied.saved(6) == plain.saved(6)
    assert choose({6: 1.0}, copied).seconds < choose({6: 1.0}, plain).seconds
    short = plain.row_bytes * 3000
    assert choose({6: 1.0}, cost(made=4000, free_bytes=short)).cuts == ()
