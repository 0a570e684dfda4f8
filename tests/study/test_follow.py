"""Where a study stands: counts, what runs, what is left, from its rows alone."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kit_tiny import Tiny

from fairtune.errors import StorageError, StudyError
from fairtune.study.follow import GRACE, State, follow, state_of
from fairtune.study.ledger import Ledger
from fairtune.study.overview import Overview
from fairtune.study.place import PINS, Place
from fairtune.study.rows import Row, results

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def view(tiny: Tiny) -> Overview:
    return tiny.view


@pytest.fixture(scope="module")
def first(view: Overview) -> Row:
    return replace(results(view.rows["search"])[0], number=0, root=0)


def lasted(row: Row, seconds: float, **changes: object) -> Row:
    start = NOW - timedelta(hours=1)
    return replace(row, started=start, finished=start + timedelta(seconds=seconds), **changes)  # type: ignore[arg-type]


def under_way(row: Row, number: int, **changes: object) -> Row:
    begun = NOW - timedelta(seconds=50)
    changes = {
        "number": number, "root": number, "key": f"run-{number}", "state": "running",
        "values": None, "reason": None, "started": begun, "finished": None, "beat": 3,
        "beaten": NOW - timedelta(seconds=12), "worker": "node1:4711:abc:def",
        "progress": {"epoch": 1, "of": 4, "objective": 0.6}, **changes,
    }  # fmt: skip
    return replace(row, **changes)  # type: ignore[arg-type]


def searching(view: Overview, rows: list[Row], trials: int, **settings: object) -> Overview:
    """The study as it would stand with `rows` in its search and nothing confirmed."""
    budget = {"trials": trials, "minutes": None, **settings}
    done = [lasted(row, 100) for row in results(view.rows["baseline"])]
    return replace(
        view,
        rows={**view.rows, "baseline": done, "search": rows, "confirm": [], "final": []},
        settings={**view.settings, "budget": budget, "confirm": {"top": 2, "seeds": 3}},
        attrs={},
    )


def test_a_finished_study_needs_its_storage_alone(tiny: Tiny, tmp_path: Path) -> None:
    state = state_of(tiny.view, NOW)
    assert state.finished
    assert state.running == ()
    assert state.left_seconds == 0.0
    assert state.tested is not None
    assert {p.phase for p in state.phases} == {"baseline", "search", "confirm", "final"}
    for phase in state.phases[:3]:
        assert phase.planned == phase.complete + phase.pruned + phase.failed, phase
    copy = tmp_path / "elsewhere.db"
    shutil.copy(tiny.place.folder / "study.db", copy)
    far = Place(tmp_path / "no-results", "tiny", f"sqlite:///{copy}")
    found = state_of(Overview.load(far), NOW)
    assert replace(found, storage="") == replace(state, storage="")
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["study"] == "tiny"


def test_what_runs_and_what_is_left_follow_from_the_rows(view: Overview, first: Row) -> None:
    done = [lasted(first, 100, values=(0.7,)), lasted(first, 100, number=1, root=1, key="b")]
    run = under_way(first, 2)
    state = state_of(searching(view, [*done, run], trials=6), NOW)
    (shown,) = state.running
    assert (shown.trial, shown.attempt, shown.worker) == (3, 1, "node1:4711")
    assert (shown.epoch, shown.epochs, shown.value) == (1, 4, 0.6)
    assert (shown.seconds, shown.silent, shown.lost) == (50.0, 12.0, False)
    search = next(p for p in state.phases if p.phase == "search")
    assert (search.planned, search.left, search.complete, search.running) == (6, 3, 2, 1)
    confirm = next(p for p in state.phases if p.phase == "confirm")
    most = 3 * (2 + len(view.settings["baselines"]["of"]))
    assert (confirm.planned, confirm.left) == (most, most)
    # Three trials and the confirm runs to come, three quarters of one that runs.
    assert state.left_seconds == pytest.approx(100 * (3 + most + 0.75))
    twice = [*done, run, under_way(first, 3)]
    both = state_of(searching(view, twice, trials=6), NOW)
    assert both.left_seconds == pytest.approx(100 * (2 + most + 1.5) / 2)
    assert not state.finished


def test_a_lost_run_is_said_to_be_lost_and_not_reckoned_with(view: Overview, first: Row) -> None:
    done = lasted(first, 100)
    old = NOW - timedelta(seconds=GRACE + 1)
    state = state_of(searching(view, [done, under_way(first, 1, beaten=old)], trials=3), NOW)
    assert [run.lost for run in state.running] == [True]
    unknown = state_of(searching(view, [done, under_way(first, 1, beaten=None)], trials=3), NOW)
    assert [(run.silent, run.lost) for run in unknown.running] == [(None, False)]
    assert state.left_seconds == pytest.approx(unknown.left_seconds - 75)  # type: ignore[operator]


def test_a_budget_of_minutes_ends_the_search(view: Overview, first: Row) -> None:
    done = lasted(first, 100)
    state = state_of(searching(view, [done], trials=50, minutes=1), NOW)
    search = next(p for p in state.phases if p.phase == "search")
    assert (search.planned, search.left) == (1, 0)
    some = state_of(searching(view, [done], trials=50, minutes=3), NOW)
    assert some.left_seconds is not None
    confirm = next(p for p in some.phases if p.phase == "confirm")
    assert some.left_seconds == pytest.approx(80 + 100 * confirm.left)


def test_failures_say_why_and_whether_they_are_tried_again(view: Overview, first: Row) -> None:
    failed = replace(
        first, state="failed", values=None, reason="oom", retryable=True,
        attrs={**first.attrs, "detail": "a trace\nout of memory"},
    )  # fmt: skip
    for_good = replace(failed, number=1, root=1, key="other", reason="nan", retryable=False)
    state = state_of(searching(view, [failed, for_good], trials=3), NOW)
    found = [(f.reason, f.detail, f.again) for f in state.failures]
    assert found == [("oom", "out of memory", True), ("nan", "out of memory", False)]
    assert state.best is None
    search = next(p for p in state.phases if p.phase == "search")
    assert (search.retrying, search.failed, search.left) == (1, 1, 2)


def test_the_best_is_the_shrunken_mean_not_the_luckiest_run(view: Overview, first: Row) -> None:
    lucky = lasted(first, 100, values=(0.9,))
    again = lasted(first, 100, number=1, root=1, key="again", replicate=1, values=(0.5,))
    steady = [
        lasted(first, 100, number=2 + i, root=2 + i, key=f"s{i}", digest="steady", values=(0.8,))
        for i in range(2)
    ]
    state = state_of(searching(view, [lucky, again, *steady], trials=9), NOW)
    assert state.best is not None
    assert (state.best.label, state.best.runs) == ("trial 3", 2)
    assert state.best.value < 0.8 + 1e-9


def test_following_goes_on_while_the_storage_does_not_answer(tiny: Tiny, tmp_path: Path) -> None:
    copy = tiny.copy(tmp_path / "out")
    with Ledger.open(copy.place.url, "tiny") as ledger:
        pins = ledger.attrs()[PINS]
        ledger.set_attr(PINS, {**pins, "budget": {**pins["budget"], "trials": 99}})
    steps: list[str] = []

    def wait(seconds: float) -> None:
        steps.append("wait")
        with contextlib.closing(sqlite3.connect(copy.place.folder / "study.db")) as db:
            if len(steps) == 1:
                db.execute("ALTER TABLE studies RENAME TO away")
            elif len(steps) == 2:
                db.execute("ALTER TABLE away RENAME TO studies")
        if len(steps) == 3:
            with Ledger.open(copy.place.url, "tiny") as ledger:
                ledger.set_attr(PINS, pins)

    seen = list(follow(copy.place, 0.3, wait))
    kinds = [type(found) for found in seen]
    assert kinds == [State, StorageError, State, State]
    assert [s.finished for s in seen if isinstance(s, State)] == [False, False, True]


def test_an_unknown_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such study"):
        next(follow(Place(tmp_path, "nothing"), 1.0))
