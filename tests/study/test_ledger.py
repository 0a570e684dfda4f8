"""Rows, claims, beats, retries: what several workers may do to one study."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from kit_ledger import Keyed, Search, bits, journal, open_ledger, proposal, sqlite
from optuna.trial import TrialState

from fairtune.errors import Problems, StorageError, StudyError
from fairtune.study.invariants import violations
from fairtune.study.ledger import Claim, Complete, Failed, Ledger, Options, Pruned
from fairtune.study.rows import (
    counts,
    current,
    dead,
    decide_digest,
    due,
    next_replicate,
    refusal,
    results,
    roots,
    valid,
)
from fairtune.study.samplers import SAMPLERS
from fairtune.study.samplers.tpe import Tpe
from fairtune.study.storages import engine_of, open_storage
from fairtune.study.trials import PlainTrials


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables: to make them takes longer than most of these tests."""
    folder = tmp_path_factory.mktemp("empty")
    open_storage(sqlite(folder)).close()
    return folder / "study.db"


@pytest.fixture(params=["sqlite", "journal"])
def url(request: pytest.FixtureRequest, tmp_path: Path, empty: Path) -> str:
    if request.param == "journal":
        return journal(tmp_path)
    shutil.copy(empty, tmp_path)
    return sqlite(tmp_path)


def states(ledger: Ledger, phase: str = "search") -> list[tuple[str, str | None]]:
    return [(row.state, row.reason) for row in ledger.rows(phase)]


def only(ledger: Ledger, phase: Any) -> Claim:
    (claim,) = ledger.claim([phase], at_most=1)
    return claim


def lose(ledger: Ledger, clock: Clock, seconds: float = 1000.0) -> int:
    """Let every row that does not beat go stale; return how many were failed."""
    ledger.reap()
    clock.now += seconds
    return len(ledger.reap())


def test_a_row_says_everything_and_comes_back_equal(url: str) -> None:
    with open_ledger(url, worker="me") as ledger:
        claim = only(ledger, Search(3))
        assert (claim.phase, claim.number, claim.attempt, claim.root) == ("search", 0, 0, 0)
        row = ledger.rows()[0]
        assert row.state == "running"
        assert row.worker == claim.worker == "me"
        assert row.proposal() == claim.proposal
        assert row.started is not None
        assert row.finished is None
        ledger.finish(claim, Complete([0.25], {"note": "n"}, {"floor": -0.5}))
        row = ledger.rows()[0]
        assert (row.state, row.values, row.reason) == ("complete", (0.25,), None)
        assert row.attrs == {"glyph": "x", "note": "n"}
        assert row.proposal() == claim.proposal
        assert row.constraints == {"floor": -0.5}
        assert row.finished is not None
        assert row.finished >= row.started  # type: ignore[operator]
    with open_ledger(url) as again:
        assert again.rows() == [row]


def test_a_row_appears_running_and_whole_in_one_transaction(tmp_path: Path) -> None:
    with open_ledger(sqlite(tmp_path)) as ledger:
        engine = engine_of(ledger._family.opened.storage)
        seen: list[tuple[int, int, int]] = []

        def look(connection: Any) -> None:
            count = [
                connection.exec_driver_sql(f"select count(*) from {table}").scalar()
                for table in ("trials", "trial_params", "trial_user_attributes")
            ]
            seen.append(tuple(count))

        sqlalchemy.event.listen(engine, "commit", look)
        ledger.claim([Search(1, bits(48))], at_most=1)
        assert {counts[:2] for counts in seen} - {(0, 0)} == {(1, 48)}


# Each draws from what it learned within a few trials; auto and what it chooses after ten.
SOON: dict[str, Any] = {
    "blr_ts": {"startup": 2},
    "cmaes": {"population": 4},
    "gp": {"startup": 1},
    "nsga2": {"population": 2},
    "tpe": {"startup": 1},
}


@pytest.mark.parametrize(
    "sampler",
    [n if n == "tpe" else pytest.param(n, marks=pytest.mark.slow) for n in SAMPLERS],
)
def test_a_trial_costs_few_commits_whatever_its_length(
    tmp_path: Path, empty: Path, sampler: str
) -> None:
    spent = {}
    warm = 10 if sampler == "auto" else 4
    made = SAMPLERS.parse({sampler: SOON.get(sampler, {})})
    for length in (48, 200):
        folder = tmp_path / str(length)
        folder.mkdir()
        shutil.copy(empty, folder)
        with open_ledger(sqlite(folder), sampler=made) as ledger:
            engine = engine_of(ledger._family.opened.storage)
            commits: list[Any] = []
            phase = Search(warm + 1, bits(length))
            for count in range(warm):
                ledger.finish(only(ledger, phase), Complete([count % 3]))
            sqlalchemy.event.listen(engine, "commit", commits.append)
            ledger.reap()
            claim = only(ledger, phase)
            for epoch in range(1, 9):
                claim.report(epoch, 8, utility=0.5)
            ledger.finish(claim, Complete([0.5], {"a": 1, "b": 2}, {"x": 0.1, "y": -1.0}))
            spent[length] = len(commits) - ledger.rows()[-1].beat
    assert spent[48] == spent[200] <= 10


def test_identity_may_not_change_and_each_field_is_named(url: str) -> None:
    identity = {"recipe": {"lr": 1e-3, "epochs": 8}, "objectives": ["auc"], "seed": 0}
    open_ledger(url, identity=identity).close()
    open_ledger(url, identity=identity, sampler=Tpe(), grace=5.0).close()
    open_ledger(url, identity=None, create=False, directions=[]).close()
    with pytest.raises(StudyError, match=r"'recipe.epochs' differs") as one:
        open_ledger(url, identity={**identity, "recipe": {"lr": 1e-3, "epochs": 9}})
    assert (one.value.found, one.value.allowed) == (9, "8")
    with pytest.raises(Problems) as two:
        open_ledger(url, identity={"recipe": {"lr": 1e-3}, "objectives": ["auc@age"], "seed": 0})
    assert [p.what.split("'")[1] for p in two.value.problems] == ["objectives", "recipe.epochs"]
    with pytest.raises(StudyError, match="directions"):
        open_ledger(url, directions=["minimize"], identity=identity)


def test_a_study_is_not_made_by_those_who_read(tmp_path: Path) -> None:
    open_ledger(tmp_path, "a").close()
    with pytest.raises(StudyError, match="there is no study 'b'"):
        open_ledger(tmp_path, "b", create=False)
    with pytest.raises(ValueError, match="directions"):
        open_ledger(tmp_path, "b", directions=[])


def test_attributes_and_final_rows(url: str) -> None:
    with open_ledger(url) as ledger:
        ledger.set_attr("distributions", {"lr": [1, 2]})
        ledger.set_attr("opening:1", {"by": "x"}, phase="final")
        assert ledger.attrs()["distributions"] == {"lr": [1, 2]}
        assert ledger.attrs("final") == {"opening:1": {"by": "x"}}
        assert ledger.attrs("confirm") == {}
        made = proposal({}, {}, kind="confirm")
        assert ledger.append_final(made, [0.5], {"auc": 0.7}) == 0
        assert ledger.append_final(made, [0.6], {"auc": 0.8}) == 1
        rows = ledger.rows("final")
        assert [(r.state, r.values, r.attrs["auc"]) for r in rows] == [
            ("complete", (0.5,), 0.7),
            ("complete", (0.6,), 0.8),
        ]
        assert ledger.optuna_study("final").trials[1].values == [0.6]


def test_metric_names_reach_the_dashboard(tmp_path: Path) -> None:
    with Ledger.open(
        journal(tmp_path),
        "s",
        directions=["maximize", "minimize"],
        metric_names=["worst_auc@age", "nll"],
        create=True,
    ) as ledger:
        assert ledger.optuna_study().metric_names == ["worst_auc@age", "nll"]
        assert ledger.directions == ("maximize", "minimize")


def test_constraints_reach_the_sampler(url: str) -> None:
    with open_ledger(url) as ledger:
        ledger.finish(only(ledger, Search(2)), Complete([0.9], {}, {"floor": 0.1}))
        ledger.finish(only(ledger, Search(2)), Complete([0.2], {}, {"floor": -0.1}))
        assert ledger.optuna_study().best_trial.number == 1


def test_a_value_that_is_no_number_fails_the_row(url: str) -> None:
    with open_ledger(url) as ledger:
        ledger.finish(only(ledger, Search(2)), Complete([float("nan")]))
        assert states(ledger) == [("failed", "nan")]
        with pytest.raises(ValueError, match="2 values for 1 objectives"):
            ledger.finish(only(ledger, Search(2)), Complete([0.1, 0.2]))


def test_a_pruned_row_keeps_its_reason_and_tells_tpe_how_far_it_came(url: str) -> None:
    with open_ledger(url) as ledger:
        claim = only(ledger, Search(2))
        claim.report(2, 8, utility=0.4)
        ledger.finish(claim, Pruned(2, None, {}, "rank 3 of 3"))
        row = ledger.rows()[0]
        assert (row.state, row.reason, row.attrs["epoch"]) == ("pruned", "rank 3 of 3", 2)
        seen = []

        class Peek(Search):
            def propose(self, rows: Any, draw: Any) -> Any:
                seen.extend(draw._trials)
                return super().propose(rows, draw)

        only(ledger, Peek(2))
        assert [(t.state, t.intermediate_values) for t in seen] == [(TrialState.PRUNED, {2: -0.4})]


def test_a_worker_that_vanished_is_missed_and_its_run_tried_twice_more(url: str) -> None:
    clock = Clock()
    with open_ledger(url, clock=clock, grace=100.0) as watcher:
        for attempt in range(3):
            with open_ledger(url) as lost:
                claim = only(lost, Search(1))
                assert (claim.attempt, claim.root) == (attempt, 0)
                key = claim.proposal.key
            assert watcher.reap() == []
            clock.now += 99.0
            assert watcher.reap() == []
            clock.now += 2.0
            assert [row.number for row in watcher.reap()] == [attempt]
        rows = watcher.rows()
        assert states(watcher) == [("failed", "stale")] * 3
        assert {row.key for row in rows} == {key}
        assert {(r.digest, tuple(r.params.items()), r.replicate) for r in rows}.__len__() == 1
        assert due(rows) == []
        assert [row.number for row in dead(rows)] == [2]
        assert watcher.claim([Search(1)], 1) == []
        assert counts(rows)["failed"] == 1


def test_a_row_that_beats_is_never_missed(url: str) -> None:
    clock = Clock()
    with open_ledger(url, clock=clock, grace=100.0) as watcher, open_ledger(url) as other:
        claim = only(other, Search(1))
        for _ in range(5):
            claim.progress["epoch"] = clock.now
            other._desk.beat(claim)
            assert watcher.reap() == []
            clock.now += 90.0
        row = watcher.rows()[0]
        assert (row.beat, row.progress) == (5, {"epoch": 360.0})


def test_nobody_is_missed_for_the_time_in_which_the_storage_was_away(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with open_ledger(url) as worker, open_ledger(url, clock=clock, grace=10.0) as watcher:
        claim = only(worker, Search(1))
        watcher.reap()
        read, failed = watcher._family._trials.all, []

        def away(study: int) -> Any:
            if len(failed) < 2:
                failed.append(1)
                clock.now += 300.0
                raise OSError("no route to host")
            return read(study)

        monkeypatch.setattr(watcher._family._trials, "all", away)
        assert watcher.reap() == []
        clock.now += 9.0
        assert watcher.reap() == []
        worker._desk.beat(claim)
        clock.now += 9.0
        assert watcher.reap() == []
        clock.now += 10.0
        assert len(watcher.reap()) == 1


def test_nobody_is_missed_for_the_time_in_which_the_storage_was_silent(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with open_ledger(url) as worker, open_ledger(url, clock=clock, grace=10.0) as watcher:
        only(worker, Search(1))
        watcher.reap()
        read = watcher._family._trials.all

        def silent(study: int) -> Any:
            clock.now += 300.0
            monkeypatch.undo()
            return read(study)

        monkeypatch.setattr(watcher._family._trials, "all", silent)
        assert watcher.reap() == []
        clock.now += 10.0
        assert len(watcher.reap()) == 1


def test_a_worker_does_not_miss_itself(url: str) -> None:
    clock = Clock()
    with open_ledger(url, clock=clock, grace=100.0) as ledger:
        only(ledger, Search(1))
        assert lose(ledger, clock) == 0
        assert not ledger.others_running()


def test_one_watcher_fails_a_row_once(url: str) -> None:
    clock = Clock()
    with (
        open_ledger(url, clock=clock, grace=10.0) as one,
        open_ledger(url, clock=clock, grace=10.0) as two,
        open_ledger(url) as lost,
    ):
        only(lost, Search(1))
        one.reap(), two.reap()
        two._view.refresh()
        clock.now += 11.0
        assert len(one.reap()) == 1
        row = two._view.rows["search"][0]
        assert row.state == "running"
        assert not two._view.fail(row, "stale")


def test_an_error_that_may_pass_is_tried_once_more_and_others_never(url: str) -> None:
    with open_ledger(url) as ledger:
        ledger.finish(only(ledger, Search(2)), Failed("oom", "out of memory", retry=True))
        again = only(ledger, Search(2))
        assert (again.attempt, again.root) == (1, 0)
        assert again.proposal.attrs == {"glyph": "x"}
        ledger.finish(again, Failed("oom", retry=True))
        assert ledger.rows()[0].attrs["detail"] == "out of memory"
        other = only(ledger, Search(2))
        assert (other.attempt, other.root) == (0, 2)
        ledger.finish(other, Failed("error", "no such layer"))
        assert ledger.claim([Search(2)], 1) == []
        assert len(dead(ledger.rows())) == 2


def test_a_run_given_back_is_tried_again_without_limit_and_costs_no_budget(url: str) -> None:
    with open_ledger(url) as ledger:
        for attempt in range(5):
            claim = only(ledger, Search(1))
            assert claim.attempt == attempt
            ledger.give_back(claim)
        ledger.finish(only(ledger, Search(1)), Complete([0.5]))
        assert states(ledger) == [("failed", "stopped")] * 5 + [("complete", None)]
        assert len(roots(ledger.rows())) == 1
        assert counts(ledger.rows())["complete"] == 1


def test_a_retry_inherits_the_rungs_and_does_not_write_them_again(url: str) -> None:
    with open_ledger(url) as ledger:
        claim = only(ledger, Search(1))
        claim.report(2, 8, utility=0.4)
        ledger.give_back(claim)
        again = only(ledger, Search(1))
        assert again.report(2, 8, utility=9.0).stop is None
        row = ledger.rows()[1]
        assert (row.rungs, row.planned, row.beat) == ({2: -0.4}, 8, 0)


@contextlib.contextmanager
def lost_and_found(url: str) -> Iterator[tuple[Ledger, Claim, Ledger]]:
    """A worker whose only row another has failed while it went on."""
    clock = Clock()
    with open_ledger(url) as slow, open_ledger(url, clock=clock, grace=10.0) as watcher:
        claim = only(slow, Search(1))
        assert lose(watcher, clock) == 1
        yield slow, claim, watcher


def test_a_late_result_replaces_a_retry_that_has_not_begun(url: str) -> None:
    with lost_and_found(url) as (slow, claim, watcher):
        slow._desk.beat(claim)
        assert claim.poll() is None
        slow.finish(claim, Complete([0.7], {"note": 1}, {"floor": -1.0}))
        rows = watcher.rows()
        assert states(watcher) == [("failed", "stale"), ("complete", None)]
        assert (rows[1].values, rows[1].attempt, rows[1].root) == ((0.7,), 0, 0)
        assert rows[1].recovered
        assert rows[1].constraints == {"floor": -1.0}
        assert watcher.claim([Search(1)], 1) == []
        assert [row.number for row in results(rows)] == [1]
        assert len(roots(rows)) == 1


def test_a_late_result_ends_a_retry_that_runs(url: str) -> None:
    with lost_and_found(url) as (slow, claim, watcher):
        retry = only(watcher, Search(1))
        slow.finish(claim, Complete([0.7]))
        watcher._desk.beat(retry)
        assert retry.poll() == "row 1 was taken over by another worker"
        watcher.finish(retry, Complete([0.1]))
        assert states(watcher) == [
            ("failed", "stale"),
            ("failed", "superseded"),
            ("complete", None),
        ]
        assert results(watcher.rows())[0].values == (0.7,)


def test_a_late_result_is_dropped_when_the_retry_has_finished(url: str) -> None:
    with lost_and_found(url) as (slow, claim, watcher):
        watcher.finish(only(watcher, Search(1)), Complete([0.1]))
        assert not slow.recover(claim, Complete([0.7]))
        slow.finish(claim, Complete([0.7]))
        assert states(watcher) == [("failed", "stale"), ("complete", None)]
        assert results(watcher.rows())[0].values == (0.1,)


def test_a_late_result_that_is_lost_on_its_way_leaves_the_run_to_others(url: str) -> None:
    with lost_and_found(url) as (slow, claim, watcher):
        retry = only(watcher, Search(1))
        slow._family.end = lambda *_, **__: pytest.exit("killed")  # type: ignore[method-assign]
        with pytest.raises(BaseException, match="killed"):
            slow.recover(claim, Complete([0.7]))
        del slow._family.end
        late = watcher.rows()[2]
        assert (late.recovered, late.state) == (True, "running")
        # Who claims it now sees that its result is on its way; once it is lost, the run is due.
        assert [r.number for r in due(watcher.rows())] == []
        watcher.finish(retry, Failed("superseded"))
        slow._view.fail(late, "stale")
        again = only(watcher, Search(1))
        assert (again.attempt, again.root) == (2, 0)
        watcher.finish(again, Complete([0.3]))
        assert violations({"search": watcher.rows()}, 1) == []


def test_a_retry_claimed_after_a_late_result_steps_back(url: str) -> None:
    with lost_and_found(url) as (_, _, watcher):
        lost = watcher.rows()[0]
        late = replace(lost, number=1, state="running", reason=None, recovered=True)
        retry = replace(lost, number=2, state="running", reason=None, attempt=1)
        assert refusal(retry, [lost, late, retry], None) == "duplicate"
        assert refusal(late, [lost, late, retry], None) is None
        before = replace(retry, number=1), replace(late, number=2)
        assert [refusal(row, [lost, *before], None) for row in before] == [None, None]


def test_two_late_results_of_one_run_leave_one(url: str) -> None:
    with lost_and_found(url) as (slow, claim, watcher):
        second = only(watcher, Search(1))
        watcher._view.fail(watcher.rows()[1], "stale")
        assert slow.recover(claim, Complete([0.7]))
        assert not watcher.recover(second, Complete([0.1]))
        assert [row.values for row in results(watcher.rows())] == [(0.7,)]
        assert violations({"search": watcher.rows()}, 1) == []


def test_a_surplus_row_that_nobody_looked_at_is_not_taken_for_work(url: str) -> None:
    clock = Clock()
    with open_ledger(url, clock=clock, grace=10.0) as ledger, open_ledger(url, slot=1) as lost:
        ledger.reap(), lost.reap()
        ledger.finish(only(ledger, Search(1)), Complete([0.5]))
        only(lost, Search(2))
        ledger.reap([Search(1)])
        clock.now += 11.0
        assert len(ledger.reap([Search(1)])) == 1
        assert states(ledger) == [("complete", None), ("failed", "budget")]
        assert len(roots(ledger.rows())) == 1


def test_a_late_failure_changes_nothing(url: str) -> None:
    with lost_and_found(url) as (slow, claim, watcher):
        slow.finish(claim, Failed("oom", retry=True))
        assert states(watcher) == [("failed", "stale")]
        assert [row.number for row in due(watcher.rows())] == [0]


def test_a_run_taken_over_is_told_to_stop_by_its_next_beat(url: str) -> None:
    with lost_and_found(url) as (slow, claim, watcher):
        retry = only(watcher, Search(1))
        assert claim.poll() is None
        slow._desk.beat(claim)
        assert claim.poll() == "row 0 was taken over by another worker"
        with slow.beating([claim]):
            pass
        assert states(watcher) == [("failed", "stale"), ("running", None)]
        assert retry.poll() is None


def test_of_two_rows_with_one_key_the_lower_number_wins(url: str) -> None:
    phase = Keyed(["a", "b"])
    with open_ledger(url) as one, open_ledger(url) as two:
        # Both read the study before either writes to it.
        one.claim([Search(0)], 1)
        two.claim([phase], 0)
        one.reap(), two.reap()
        first = only(one, phase)
        second = only(two, phase)
        assert first.proposal.attrs == {"label": "a"}
        assert second.proposal.attrs == {"label": "b"}
        assert states(one, "baseline") == [
            ("running", None),
            ("failed", "duplicate"),
            ("running", None),
        ]
        assert len(valid(one.rows("baseline"))) == 2


def test_two_workers_that_draw_the_same_point_do_not_both_run_it(url: str) -> None:
    with open_ledger(url) as one, open_ledger(url) as two:
        one.reap(), two.reap()
        first, second = only(one, Search(2)), only(two, Search(2))
        assert first.proposal.key != second.proposal.key
        assert states(one) == [("running", None), ("failed", "duplicate"), ("running", None)]
        one.reap(), two.reap()
        assert one.claim([Search(2)], 1) == []


def test_a_surplus_row_is_failed_and_may_come_back_when_the_budget_grows(url: str) -> None:
    with open_ledger(url, slot=1) as one, open_ledger(url, slot=2) as two:
        one.reap(), two.reap()
        one.finish(only(one, Search(1)), Complete([0.5]))
        assert two.claim([Search(1)], 1) == []
        assert states(one) == [("complete", None), ("failed", "budget")]
        one.finish(only(one, Search(2)), Complete([0.5]))
        assert len(roots(one.rows())) == 2


def test_the_run_of_a_surplus_row_whose_worker_died_is_not_tried_again(url: str) -> None:
    clock = Clock()
    with open_ledger(url, clock=clock, grace=10.0) as ledger, open_ledger(url, slot=1) as lost:
        ledger.reap(), lost.reap()
        ledger.finish(only(ledger, Search(1)), Complete([0.5]))
        only(lost, Search(2))
        assert lose(ledger, clock) == 1
        assert ledger.claim([Search(1)], 1) == []


def test_a_phase_that_repeats_itself_is_a_fault(tmp_path: Path) -> None:
    class Same(Keyed):
        def propose(self, rows: Any, draw: Any) -> Any:
            return super().propose({"baseline": []}, draw)

    with open_ledger(tmp_path) as ledger:
        only(ledger, Same(["a"]))
        with pytest.raises(RuntimeError, match="a second time"):
            ledger.claim([Same(["a"])], 1)


def test_claims_are_taken_in_the_order_of_the_phases(url: str) -> None:
    with open_ledger(url) as ledger:
        phases = [Keyed(["a"]), Search(2), Keyed(["c"], name="confirm")]
        claims = ledger.claim(phases, at_most=9)
        assert [claim.phase for claim in claims] == ["baseline", "search", "search", "confirm"]
        assert len({claim.proposal.key for claim in claims}) == 4
        assert ledger.claim(phases, at_most=9) == []


def test_a_digest_is_repeated_up_to_three_runs_and_not_once_pruned(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        one: dict[str, Any] = {"only": bits(1)["bit.000"]}
        phase = Search(9, one)
        claims = ledger.claim([phase], at_most=9)
        # Two points, three runs each, then nothing is left to draw.
        assert len(claims) == 6
        assert sorted(c.proposal.replicate for c in claims) == [0, 0, 1, 1, 2, 2]
        assert {c.proposal.kind for c in claims if c.proposal.replicate} == {"replicate"}
        rows = ledger.rows()
        assert decide_digest(rows, "unheard") == "new"
        assert decide_digest(rows, rows[0].digest) == "redraw"
        assert decide_digest(rows, rows[0].digest, most=4) == "replicate"
        assert next_replicate(rows, rows[0].digest) == 3
        assert next_replicate(rows, "unheard") == 0
        first = claims[0]
        ledger.finish(first, Pruned(2))
        assert decide_digest(ledger.rows(), first.proposal.digest, most=9) == "redraw"


def test_a_digest_that_failed_for_good_is_not_drawn_again(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        claim = only(ledger, Search(2))
        digest = claim.proposal.digest
        ledger.finish(claim, Failed("error", retry=True))
        assert decide_digest(ledger.rows(), digest) == "replicate"
        ledger.finish(only(ledger, Search(2)), Failed("error", retry=True))
        assert decide_digest(ledger.rows(), digest) == "redraw"


def test_rows_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    clock = Clock()
    with open_ledger(tmp_path, clock=clock, grace=1.0) as ledger:
        ledger.optuna_study().enqueue_trial({"x": 1})
        ledger.optuna_study().ask()
        assert lose(ledger, clock) == 0
        assert ledger.rows() == []
        ledger.finish(only(ledger, Search(1)), Complete([0.5]))
        assert [row.number for row in ledger.rows()] == [1]


def test_reserved_attributes_are_refused(tmp_path: Path) -> None:
    class Bad(Keyed):
        def propose(self, rows: Any, draw: Any) -> Any:
            return proposal({}, {}, attrs={"worker": "me"})

    with open_ledger(tmp_path) as ledger, pytest.raises(ValueError, match="worker"):
        ledger.claim([Bad(["a"])], 1)


def wait_for(condition: Callable[[], object], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_beats_go_on_while_the_run_lasts_and_end_with_it(url: str) -> None:
    with open_ledger(url, beat_every=0.02) as ledger:
        claim = only(ledger, Search(1))
        with ledger.beating([claim]):
            claim.progress.update(epoch=3, of=8)
            wait_for(lambda: ledger.rows()[0].beat >= 3)
            assert ledger.rows()[0].progress == {"epoch": 3, "of": 8}
            ledger.finish(claim, Complete([0.5]))
            beat = ledger.rows()[0].beat
            time.sleep(0.1)
        assert ledger.rows()[0].beat == beat
        assert not [t for t in threading.enumerate() if t.name == "fairtune-beat"]


def test_the_beat_survives_a_storage_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open_ledger(tmp_path, beat_every=0.02) as ledger:
        claim = only(ledger, Search(1))
        storage, asked = ledger._family.opened.storage, []
        write = storage.set_trial_user_attr

        def away(*args: Any) -> None:
            asked.append(1)
            if len(asked) < 5:
                raise RuntimeError("postgresql://me:s3cret@host is away")
            write(*args)

        monkeypatch.setattr(storage, "set_trial_user_attr", away)
        with ledger.beating([claim]):
            wait_for(lambda: ledger.rows()[0].beat >= 6)
            ledger.finish(claim, Complete([0.5]))
        assert states(ledger) == [("complete", None)]
        assert "trying again" in caplog.text
        assert "s3cret" not in caplog.text


def test_what_is_left_without_outcome_is_given_back(url: str) -> None:
    with open_ledger(url) as ledger:
        claims = ledger.claim([Search(3)], at_most=3)
        with ledger.beating(claims):
            ledger.finish(claims[0], Complete([0.5]))
        assert states(ledger) == [("complete", None)] + [("failed", "stopped")] * 2


def test_ctrl_c_gives_back_and_an_exception_fails(url: str) -> None:
    with open_ledger(url) as ledger:
        claims = ledger.claim([Search(1)], at_most=1)
        with pytest.raises(KeyboardInterrupt), ledger.beating(claims):
            raise KeyboardInterrupt
        claims = ledger.claim([Search(1)], at_most=1)
        assert claims[0].attempt == 1
        with pytest.raises(ZeroDivisionError), ledger.beating(claims):
            print(1 / 0)  # noqa: T201
        assert states(ledger) == [("failed", "stopped"), ("failed", "error")]
        assert "ZeroDivisionError" in ledger.rows()[1].attrs["detail"]


def test_a_full_disk_gives_back_and_a_lost_study_does_not_hang(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = StorageError("the disk is full")
    with open_ledger(url) as ledger:
        claims = ledger.claim([Search(1)], at_most=1)
        with pytest.raises(StorageError, match="disk is full"), ledger.beating(claims):
            raise full
        assert states(ledger) == [("failed", "stopped")]
        assert "the disk is full" in ledger.rows()[0].attrs["detail"]
        claims = ledger.claim([Search(1)], at_most=1)

        def gone(*args: Any) -> None:
            raise OSError("gone")

        monkeypatch.setattr("fairtune.study.ledger._BRIEF", 0.2)
        monkeypatch.setattr(ledger._family._trials, "end", gone)
        with pytest.raises(StorageError, match="disk is full"), ledger.beating(claims):
            raise full
        assert states(ledger)[1] == ("running", None)


def test_an_answer_that_was_lost_is_not_a_second_row_nor_a_lost_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(sqlite(tmp_path)) as ledger:
        trials = ledger._family._trials

        def lossy(name: str) -> None:
            do, failed = getattr(trials, name), []

            def call(*args: Any, **kwargs: Any) -> Any:
                answer = do(*args, **kwargs)
                if not failed:
                    failed.append(1)
                    raise OSError("connection reset")
                return answer

            monkeypatch.setattr(trials, name, call)

        lossy("add")
        lossy("end")
        ledger.finish(only(ledger, Search(1)), Complete([0.5]))
        assert states(ledger) == [("complete", None)]


def test_a_result_that_wins_the_race_against_a_watcher_is_whole(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with open_ledger(url) as slow, open_ledger(url, clock=clock, grace=10.0) as watcher:
        claim = only(slow, Search(1))
        watcher.reap()
        storage = watcher._family.opened.storage
        # By way of Optuna's interface, where attributes and state are written apart.
        for family in (slow._family, watcher._family):
            family._trials = PlainTrials(family.opened.storage)
        end = storage.set_trial_state_values

        def late(*args: Any) -> bool:
            monkeypatch.undo()
            slow.finish(claim, Complete([0.7], {"note": 1}))
            return end(*args)

        monkeypatch.setattr(storage, "set_trial_state_values", late)
        clock.now += 11.0
        assert watcher.reap() == []
        row = watcher.rows()[0]
        assert (row.state, row.values, row.attrs["note"]) == ("complete", (0.7,), 1)


def test_why_a_run_was_given_back_is_kept(url: str) -> None:
    with open_ledger(url) as ledger:
        ledger.give_back(only(ledger, Search(1)), "the time is over")
        row = ledger.rows()[0]
        assert (row.reason, row.attrs["detail"]) == ("stopped", "the time is over")


def test_one_row_speaks_for_a_key(url: str) -> None:
    with open_ledger(url) as ledger:
        claim = only(ledger, Search(2))
        ledger.give_back(claim)
        assert current(ledger.rows())[claim.proposal.key].number == 0
        again = only(ledger, Search(2))
        assert current(ledger.rows())[claim.proposal.key].number == 1
        ledger.finish(again, Complete([0.5]))
        assert [r.number for r in results(ledger.rows())] == [1]
        assert counts(ledger.rows()) == {
            "running": 0,
            "complete": 1,
            "pruned": 0,
            "failed": 0,
            "retrying": 0,
        }


def test_options_have_a_worker_name_of_their_own() -> None:
    from fairtune.study.ledger import worker_name

    assert worker_name() != worker_name()
    assert Options().worker is None
