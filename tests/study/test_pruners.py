"""The pruners, alone and through a ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit_ledger import Keyed, Search, open_ledger, proposal

from fairtune.errors import ConfigError
from fairtune.study.form import Form
from fairtune.study.ledger import Complete, Ledger
from fairtune.study.pruners import PRUNERS, Pruner, Rule
from fairtune.study.pruners.asha import Asha
from fairtune.study.pruners.hyperband import Hyperband
from fairtune.study.pruners.median import Median
from fairtune.study.pruners.none import Off
from fairtune.study.rows import Row, Score


def peer(key: str, state: str = "running", **rungs: Score) -> Row:
    made = proposal({"x": key}, {}, key=key)
    return Row(
        phase="search",
        number=0,
        state=state,
        attempt=0,
        root=0,
        worker="w",
        rungs={int(name[1:]): score for name, score in rungs.items()},
        planned=8,
        **{f: getattr(made, f) for f in ("kind", "params", "dimensions", "recipe", "digest")},
        **{f: getattr(made, f) for f in ("key", "seed", "replicate")},
    )


def test_every_member_builds_a_rule_whose_rungs_lie_before_the_end() -> None:
    assert PRUNERS.names() == ["asha", "hyperband", "median", "none"]
    for name in PRUNERS:
        declared = PRUNERS.parse(name)
        assert isinstance(declared, Pruner)
        rule = declared.build()
        assert isinstance(rule, Rule)
        for of in (1, 2, 3, 8, 50):
            rungs = rule.rungs(of, "k")
            assert list(rungs) == sorted(set(rungs))
            assert all(2 <= epoch < of for epoch in rungs)


def test_an_unknown_pruner_is_answered_with_the_closest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'asha'"):
        PRUNERS.parse("ahsa")


@pytest.mark.parametrize(
    ("of", "expected"), [(1, ()), (2, ()), (4, (2,)), (8, (2, 6)), (20, (5, 15)), (100, (25, 75))]
)
def test_the_first_rung_is_a_quarter_but_never_below_two(
    of: int, expected: tuple[int, ...]
) -> None:
    assert Asha().build().rungs(of, "k") == expected


def test_asha_keeps_the_best_third_once_there_are_three() -> None:
    rule = Asha().build()
    two = [peer("a", r2=0.9)]
    assert rule.stop(2, 8, "k", 0.1, two) is None
    three = [peer("a", r2=0.9), peer("b", r2=0.8)]
    assert rule.stop(2, 8, "k", 0.85, three) == "rank 2 of 3 at epoch 2, 1 in 3 goes on"
    assert rule.stop(2, 8, "k", 0.95, three) is None
    six = [peer(str(i), r2=i / 10) for i in range(5)]
    assert rule.stop(2, 8, "k", 0.35, six) is None
    assert rule.stop(2, 8, "k", 0.25, six) is not None


def test_runs_that_have_not_reached_the_rung_are_no_peers_of_it() -> None:
    rule = Asha().build()
    peers = [peer("a", r2=0.9), peer("b", r2=0.8), peer("c", r2=0.7, r6=0.9)]
    assert rule.stop(6, 8, "k", 0.1, peers) is None


def test_median_waits_for_complete_runs_and_compares_with_their_median() -> None:
    rule = Median(startup=3).build()
    running = [peer(str(i), r2=0.9) for i in range(9)]
    assert rule.stop(2, 8, "k", 0.0, running) is None
    done = [peer(str(i), "complete", r2=s) for i, s in enumerate((0.2, 0.5, 0.8))]
    assert rule.stop(2, 8, "k", 0.5, done) is None
    assert "below the median 0.5" in str(rule.stop(2, 8, "k", 0.49, done))
    assert rule.rungs(8, "k") == (2, 4, 6)


def test_hyperband_compares_within_a_bracket() -> None:
    rule = Hyperband(min_resource=1).build()
    of, keys = 27, [f"key{i}" for i in range(200)]
    brackets = {key: rule.bracket(of, key) for key in keys}
    assert set(brackets.values()) == {0, 1, 2, 3}
    assert sum(b == 0 for b in brackets.values()) > sum(b == 3 for b in brackets.values())
    for key, bracket in brackets.items():
        rungs = rule.rungs(of, key)
        assert rungs == tuple(3**k for k in range(bracket, 3))
    first = [key for key, bracket in brackets.items() if bracket == 0]
    second = [key for key, bracket in brackets.items() if bracket == 1]
    foreign = [peer(key, r3=0.9) for key in second[:9]]
    assert rule.stop(3, of, first[0], 0.1, foreign) is None
    assert rule.stop(3, of, first[0], 0.1, [peer(k, r3=0.9) for k in first[1:9]]) is not None


def test_none_has_no_rungs() -> None:
    assert Off().build().rungs(100, "k") == ()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path)


def test_a_run_far_behind_is_told_to_stop_and_its_rung_is_kept(ledger: Ledger) -> None:
    with ledger:
        claims = ledger.claim([Search(4)], at_most=4)
        told = [claim.report(2, 8, utility=u).stop for claim, u in zip(claims, (0.3, 0.2, 0.9))]
        assert told[:2] == [None, None]
        assert told[2] == "rank 3 of 3 at epoch 2, 1 in 3 goes on"
        rows = ledger.rows()
        assert [dict(row.rungs) for row in rows] == [{2: -0.3}, {2: -0.2}, {2: -0.9}, {}]
        assert [row.planned for row in rows] == [8, 8, 8, None]


def test_between_rungs_nothing_is_written_or_asked(ledger: Ledger) -> None:
    with ledger:
        (claim,) = ledger.claim([Search(1)], at_most=1)
        for epoch in (1, 3, 4, 5, 7, 8):
            assert claim.report(epoch, 8, utility=99.0).stop is None
        assert ledger.rows()[0].rungs == {}
        assert ledger.rows()[0].beat == 0


def test_a_rung_is_written_once(ledger: Ledger) -> None:
    with ledger:
        (claim,) = ledger.claim([Search(1)], at_most=1)
        claim.report(2, 8, utility=0.5)
        claim.report(2, 8, utility=0.1)
        row = ledger.rows()[0]
        assert (row.rungs, row.beat) == ({2: -0.5}, 1)


@pytest.mark.parametrize(("direction", "sign"), [("maximize", 1), ("minimize", -1)])
def test_the_objective_counts_from_half_of_the_epochs_on(
    tmp_path: Path, direction: str, sign: int
) -> None:
    with open_ledger(tmp_path, directions=[direction]) as ledger:
        (claim,) = ledger.claim([Search(1)], at_most=1)
        claim.report(2, 8, utility=0.5, objective=0.7)
        claim.report(6, 8, utility=0.4, objective=0.8)
        assert ledger.rows()[0].rungs == {2: -0.5, 6: sign * 0.8}


def test_runs_planned_for_other_epochs_are_no_peers(ledger: Ledger) -> None:
    with ledger:
        *others, mine = ledger.claim([Search(9)], at_most=9)
        for claim in others:
            claim.report(2, 7, utility=0.1)
        assert mine.report(2, 8, utility=9.0).stop is None


@pytest.mark.parametrize("kind", ["anchor", "replicate", "baseline", "confirm"])
def test_only_rows_of_the_search_are_pruned(ledger: Ledger, kind: str) -> None:
    with ledger:
        for claim in ledger.claim([Search(6)], at_most=6):
            claim.report(2, 8, utility=0.1)
            ledger.finish(claim, Complete([0.5]))

        (claim,) = ledger.claim([Keyed(["one"], "search", kind)], at_most=1)
        assert claim.report(2, 8, utility=99.0).stop is None
        assert ledger.rows()[-1].rungs == {2: -99.0}


def test_a_score_that_is_no_number_is_no_rung(ledger: Ledger) -> None:
    with ledger:
        (claim,) = ledger.claim([Search(1)], at_most=1)
        assert claim.report(2, 8, utility=float("nan")).stop is None
        assert ledger.rows()[0].rungs == {}


def test_several_objectives_are_ranked_by_front_and_then_by_crowding() -> None:
    rule = Asha().build()
    front = [peer(str(i), r2=(i / 10, 1 - i / 10)) for i in (0, 5, 10)]
    behind = [peer(f"b{i}", r2=(0.1, 0.1)) for i in range(2)]
    # Six runs, two go on: the ends of the front are loneliest.
    assert rule.stop(2, 8, "k", (0.0, 1.5), [*front[1:], *behind, behind[0]]) is None
    assert "rank 4 of 6" in str(rule.stop(2, 8, "k", (0.6, 0.45), [*front, *behind]))
    assert "rank 6 of 6" in str(rule.stop(2, 8, "k", (0.05, 0.05), [*front, *behind]))


def test_a_rung_of_another_form_says_nothing() -> None:
    rule = Asha().build()
    early = [peer(str(i), r2=0.9) for i in range(8)]
    assert rule.stop(2, 8, "k", (0.0, 0.0), early) is None
    assert rule.stop(2, 8, "k", 0.1, [*early, peer("v", r2=(9.0, 9.0))]) is not None
    done = [peer(str(i), "complete", r2=(i / 4, i / 4)) for i in range(5)]
    median = Median(startup=5).build()
    assert "place 5 below the median 3" in str(median.stop(2, 8, "k", (0.1, 0.1), done))
    assert median.stop(2, 8, "k", (0.9, 0.6), done) is None


@pytest.mark.parametrize(
    ("form", "stopped"),
    [
        (Form(), False),
        (Form("weighted", (0.9, 0.1)), True),
        (Form("chebyshev", (0.1, 0.9)), False),
    ],
)
def test_rungs_of_several_objectives_are_stored_whole_and_seen_by_the_form(
    tmp_path: Path, form: Form, stopped: bool
) -> None:
    with open_ledger(tmp_path, directions=["maximize", "minimize"], form=form) as ledger:
        claims = ledger.claim([Search(4)], at_most=4)
        given = [[0.9, 0.9], [0.8, 0.8], [0.1, 0.1], [0.0, 0.2]]
        told = []
        for claim, values in zip(claims, given):
            claim.report(2, 8, utility=0.5, objective=values)
            told.append(claim.report(6, 8, utility=0.5, objective=values).stop)
        assert (told[2] is not None) is stopped
        assert told[3] is not None
        rows = ledger.rows()
        assert [dict(row.rungs) for row in rows] == [{2: -0.5, 6: (a, -b)} for a, b in given]
    with open_ledger(tmp_path, directions=["maximize", "minimize"]) as again:
        assert [row.rungs for row in again.rows()] == [row.rungs for row in rows]
