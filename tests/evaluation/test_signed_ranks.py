"""Signed ranks and mean ranks against scipy and published figures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from fairtune.errors import DataError
from fairtune.evaluation.ranks import (
    compare_methods,
    critical_difference,
    holm_adjusted,
    signed_rank,
)


def test_pairs_are_those_of_scipy_with_holm_over_all() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(9, 4)) + np.array([0.0, 0.3, 0.9, 1.5])
    found = compare_methods(values, list("abcd"))
    assert [(p.a, p.b) for p in found.pairs] == [
        ("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d"),
    ]  # fmt: skip
    for pair in found.pairs:
        i, j = "abcd".index(pair.a), "abcd".index(pair.b)
        assert pair.p == pytest.approx(stats.wilcoxon(values[:, i], values[:, j]).pvalue)
        assert (pair.wins, pair.losses) == (
            (values[:, i] > values[:, j]).sum(), (values[:, i] < values[:, j]).sum(),
        )  # fmt: skip
    assert [p.adjusted for p in found.pairs] == holm_adjusted([p.p for p in found.pairs])


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_signed_ranks_with_ties_are_exact(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(5):
        d = rng.choice([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0], n)
        kept = d[d != 0]
        ranks = stats.rankdata(np.abs(kept))
        signs = list(itertools.product([0, 1], repeat=len(kept)))
        sums = np.array([ranks @ np.array(s) for s in signs]) if len(kept) else np.zeros(1)
        seen = ranks[kept > 0].sum() if len(kept) else 0.0
        p = min(1.0, 2 * min((sums <= seen).mean(), (sums >= seen).mean()))
        assert signed_rank(d) == pytest.approx(p)
    many = rng.normal(size=60)
    assert signed_rank(many) == pytest.approx(stats.wilcoxon(many).pvalue)


def test_holm_by_hand() -> None:
    assert holm_adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm_adjusted([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_mean_ranks_are_friedmans_and_a_smaller_value_may_be_better() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(8, 3)) + np.array([0.0, 1.0, 5.0])
    up, down = (compare_methods(values, list("abc"), sign).means for sign in (1, -1))
    assert up is not None
    assert down is not None
    expected = stats.friedmanchisquare(*values.T)
    assert (up.statistic, up.p) == pytest.approx((expected.statistic, expected.pvalue))
    by_hand = {name: np.mean([(row >= row[i]).sum() for row in values]) for i, name in
               enumerate("abc")}  # fmt: skip
    assert up.ranks == pytest.approx(by_hand)
    assert list(up.ranks) == ["c", "b", "a"]
    assert down.ranks == pytest.approx({name: 4 - rank for name, rank in up.ranks.items()})


def test_critical_differences_are_the_published_ones() -> None:
    assert critical_difference(4, 14) == pytest.approx(
        1.25, abs=0.005
    )  # Demsar 2006, section 3.2.3
    assert critical_difference(5, 3) == pytest.approx(3.52, abs=0.01)


def test_methods_within_the_critical_difference_are_named_once() -> None:
    # Ranks 1, 2, 3, 4 in every block: with 12 blocks the critical difference is 1.35.
    values = np.tile([4.0, 3.0, 2.0, 1.0], (12, 1))
    means = compare_methods(values, list("abcd")).means
    assert means is not None
    assert means.critical == pytest.approx(1.354, abs=0.001)
    assert means.alike == (("a", "b"), ("b", "c"), ("c", "d"))


def test_too_few_blocks_or_methods_have_no_mean_ranks_and_say_why() -> None:
    few = compare_methods(np.arange(15.0).reshape(5, 3), list("abc"))
    assert few.means is None
    assert few.why is not None
    assert "5 blocks" in few.why
    two = compare_methods(np.arange(14.0).reshape(7, 2), list("ab"))
    assert two.means is None
    assert two.why is not None


def test_equal_methods_differ_in_nothing() -> None:
    found = compare_methods(np.ones((6, 3)), list("abc"))
    assert {p.p for p in found.pairs} == {1.0}
    assert found.means is not None
    assert (found.means.statistic, found.means.p) == (0.0, 1.0)
    assert found.means.alike == (("a", "b", "c"),)


def test_gaps_in_the_table_are_refused() -> None:
    with pytest.raises(DataError, match="finite"):
        compare_methods(np.array([[1.0, np.nan]]), list("ab"))
    with pytest.raises(DataError, match="two methods"):
        compare_methods(np.ones((3, 1)), list("a"))
