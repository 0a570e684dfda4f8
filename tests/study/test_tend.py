"""Stopping, trying again and giving up, while workers run and from beside them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kit_ledger import SPACE, Keyed, Search, execute, journal, open_ledger, sqlite
from optuna.trial import TrialState, create_trial

from fairtune.errors import ConfigError, StudyError
from fairtune.study import orders
from fairtune.study.invariants import violations
from fairtune.study.ledger import Claim, Complete, Failed, Ledger, Outcome
from fairtune.study.orders import STOPPED_BY, Order
from fairtune.study.place import PINS, Place
from fairtune.study.rows import counts, current, due
from fairtune.study.tend import retry, stop, tended, trial_name
from fairtune.study.worker import Exit, Limits, StopFlag, work
from fairtune.study.zombies import GRACE, give_up, zombies

QUICK = Limits(idle=0.02)


@pytest.fixture(params=["journal", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    url = journal(tmp_path) if request.param == "journal" else sqlite(tmp_path)
    return Place(tmp_path, "s", url)


def at(place: Place, **options: Any) -> Ledger:
    return open_ledger(place.url, **options)


def fail(reason: str = "error", *, again: bool = False) -> Any:
    def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
        for claim in claims:
            yield claim, Failed(reason, "what was wrong", retry=again)

    return run


PATIENT = Limits(idle=0.02, failures=99)


def test_workers_leave_after_their_run_and_later_ones_take_part(place: Place) -> None:
    left = StopFlag()
    with at(place) as ledger:

        def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
            with tended(place) as study:
                order, running = stop(study, now=False)
            assert [row.number for row in running] == [0]
            assert not order.is_over({"search": ledger.rows()})
            yield claims[0], Complete([0.5])

        assert work(ledger, [Search(3)], run, QUICK, left) is Exit.STOPPED
        assert left.reason() == STOPPED_BY
        assert counts(ledger.rows())["complete"] == 1
        # The same process, joined before: it still hears the order.
        assert ledger.told_to_leave() == STOPPED_BY
    with at(place) as again:
        assert again.told_to_leave() is None
        assert work(again, [Search(3)], execute(), QUICK, StopFlag()) is Exit.DONE
        order = Order.read(again.attrs())
        assert order is not None
        assert order.is_over({"search": again.rows()})
        assert order.obeying({"search": again.rows()}) == []


def test_an_order_for_now_ends_the_run_by_its_beat(place: Place) -> None:
    with at(place, beat_every=0.02) as ledger:

        def run(claims: Sequence[Claim]) -> Iterator[tuple[Claim, Outcome]]:
            with tended(place) as study:
                stop(study, now=True)
            told = threading.Event()
            for _ in range(3000):
                if claims[0].poll() is not None:
                    break
                told.wait(0.01)
            assert claims[0].poll() == STOPPED_BY
            yield from ()

        left = StopFlag()
        assert work(ledger, [Search(1)], run, QUICK, left) is Exit.STOPPED
        assert left.reason() == STOPPED_BY
        (row,) = ledger.rows()
        assert (row.state, row.reason) == ("failed", "stopped")
        assert due(ledger.rows()) == [row]


def test_an_order_to_finish_first_leaves_the_run_alone(place: Place) -> None:
    with at(place) as ledger:
        (claim,) = ledger.claim([Search(1)], at_most=1)
        with tended(place) as study:
            stop(study, now=False)
        ledger._desk.beat(claim)
        assert claim.poll() is None
        with tended(place) as study:
            stop(study, now=True)
        ledger._desk.beat(claim)
        assert claim.poll() == STOPPED_BY


def test_a_worker_obeys_the_last_of_several_orders(place: Place) -> None:
    with at(place) as first, tended(place) as study:
        stop(study, now=False)
        with at(place, create=False) as second:
            assert (first.told_to_leave(), second.told_to_leave()) == (STOPPED_BY, None)
            orders.give(study.family, study.rows(), now=False)
            assert second.told_to_leave() == STOPPED_BY


def test_a_run_that_failed_for_good_gets_all_its_tries_again(place: Place) -> None:
    with at(place) as ledger:
        phases = [Keyed(["a"]), Search(1)]
        assert work(ledger, phases, fail(again=True), PATIENT, StopFlag()) is Exit.DONE
        assert [len(ledger.rows(p)) for p in ("baseline", "search")] == [2, 2]
        assert work(ledger, phases, execute(), QUICK, StopFlag()) is Exit.DONE
        with tended(place) as study:
            chosen, late = retry(study, [])
        assert [trial_name(row) for row in chosen] == ["baseline/2", "2"]
        assert late == []
        # As new: an error that may pass is tried once more.
        assert work(ledger, phases, fail(again=True), PATIENT, StopFlag()) is Exit.DONE
        rows = ledger.rows()
        assert [row.reason for row in rows] == ["error", "error", "asked", "error", "error"]
        assert [row.attempt for row in rows] == [0, 1, 2, 3, 4]
        assert {row.root for row in rows} == {0}
        with tended(place) as study:
            assert len(retry(study, ["5"])[0]) == 1
        assert work(ledger, phases, execute(), QUICK, StopFlag()) is Exit.DONE
        assert next(iter(current(ledger.rows()).values())).state == "complete"
        found = {phase: ledger.rows(phase) for phase in ("baseline", "search")}
        assert violations(found, 1) == []


def test_two_who_ask_at_once_ask_once(place: Place) -> None:
    with at(place) as ledger:
        work(ledger, [Search(1)], fail("nan"), PATIENT, StopFlag())
        with tended(place) as one, tended(place) as two:
            rows = [study.rows() for study in (one, two)]
            assert rows[0] == rows[1]
            retry(one, ["1"])
            # What the other read before: it writes a second row, which no rule counts.
            from fairtune.study.tend import _ask_for

            _ask_for(two.family, rows[1]["search"][0])
        assert work(ledger, [Search(1)], fail("nan"), PATIENT, StopFlag()) is Exit.DONE
        assert [row.attempt for row in ledger.rows()] == [0, 1, 1, 2]
        assert violations({"search": ledger.rows()}, 1) == []


def test_only_what_failed_for_good_can_be_asked_for(place: Place) -> None:
    with at(place) as ledger:
        work(ledger, [Search(2)], execute(), QUICK, StopFlag())
        with tended(place) as study:
            assert retry(study, []) == ([], [])
            with pytest.raises(StudyError, match="has not failed for good") as error:
                retry(study, ["2"])
            assert error.value.found == "complete"
            with pytest.raises(StudyError, match="no such trial"):
                retry(study, ["3"])
            with pytest.raises(StudyError, match="no such phase") as error:
                retry(study, ["serch/1"])
            assert error.value.todo == "did you mean 'search'?"
            with pytest.raises(ConfigError, match="not the name of a trial"):
                retry(study, ["0"])
        assert len(ledger.rows()) == 2


def test_a_run_above_a_budget_that_was_lowered_waits(place: Place) -> None:
    with at(place) as ledger:
        work(ledger, [Search(2)], fail("nan"), PATIENT, StopFlag())
        ledger.set_attr(PINS, {"budget": {"trials": 1}})
        with tended(place) as study:
            chosen, late = retry(study, [])
        assert ([r.number for r in chosen], [r.number for r in late]) == ([0, 1], [1])


def test_silent_and_vanished_runs_are_found_and_given_up_once(place: Place) -> None:
    names = ("node1:1:x:aaaaaa", "node2:1:x:aaaaaa")
    with at(place, worker=names[0]) as one, at(place, worker=names[1]) as two:
        (lost,) = one.claim([Search(2, SPACE)], at_most=1)
        (lively,) = two.claim([Search(2, SPACE)], at_most=1)
        with tended(place) as study:
            assert zombies(study) == []
            last = max(row.beaten for row in two.rows() if row.beaten)
            silent = zombies(study, now=last + timedelta(seconds=GRACE + 60))
            assert [(z.trial, z.why) for z in silent] == [
                (1, "silent for 11 minutes"), (2, "silent for 11 minutes"),
            ]  # fmt: skip

            def beat(seconds: float) -> None:
                assert seconds == 120
                two._desk.beat(lively)

            (found,) = zombies(study, 120, wait=beat)
            assert (found.trial, found.worker) == (lost.number + 1, "node1:1")
            assert found.why == "its beat stood still for 120 s"
            assert give_up(study, [found]) == [found]
            assert give_up(study, [found]) == []
        assert [row.reason for row in two.rows()] == ["stale", None]
        # It comes back before its run was taken up: nothing is lost.
        one.finish(lost, Complete([0.5]))
        assert counts(two.rows())["complete"] == 1
        two.finish(lively, Complete([0.25]))
        assert violations({"search": two.rows()}, 2) == []


def test_a_process_of_this_machine_that_is_gone_needs_no_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairtune.study.zombies.is_gone", lambda worker: worker == "dead")
    with at(place, worker="dead") as ledger, tended(place) as study:
        ledger.claim([Search(1)], at_most=1)
        (found,) = zombies(study, 120, wait=lambda seconds: pytest.fail("it waited"))
        assert found.why == "its process has ended"


def test_rows_of_other_programs_are_told_and_left_alone(place: Place) -> None:
    with at(place) as ledger, tended(place) as study:
        other = ledger.optuna_study()
        other.ask()
        other.add_trial(create_trial(state=TrialState.WAITING))
        found = zombies(study)
        assert [(z.trial, z.ours, z.why.split(",")[0]) for z in found] == [
            (1, False, "runs"), (2, False, "waits"),
        ]  # fmt: skip
        assert give_up(study, found) == []
        assert [t.state for t in other.get_trials()] == [TrialState.RUNNING, TrialState.WAITING]


def test_no_such_study_is_one_message(tmp_path: Path) -> None:
    open_ledger(tmp_path).close()
    with (
        pytest.raises(StudyError, match="there is no study 'other'"),
        tended(Place(tmp_path, "other", journal(tmp_path))),
    ):
        pass
    with pytest.raises(StudyError, match="no such study"), tended(Place(tmp_path, "other")):
        pass
    assert not (tmp_path / "other").exists()
