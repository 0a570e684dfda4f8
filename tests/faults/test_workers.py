"""Workers that are killed, paused, told to leave, or fail: what the study keeps."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from crew import LEFT, Crew
from kit_faults import done, kill_some, peaceful, reasons, rows_of, wait_for
from kit_ledger import sqlite
from kit_servers import until

from fairtune.study.rows import STALE, STOPPED, Row, current, dead
from fairtune.study.worker import Exit

pytestmark = pytest.mark.needs("postgres")
Hire = Callable[..., Crew]
DONE, STOPPED_CODE = LEFT[Exit.DONE], LEFT[Exit.STOPPED]


def killed(hire: Hire, trials: int, kills: int, seed: int, **orders: object) -> list[Row]:
    """Kill workers of a crew of six at random moments; return the rows of the study they end."""
    crew = hire(trials=trials, **orders)
    crew.start(6)
    wait_for(crew, 6, state=None)
    done_kills = kill_some(crew, kills, seed, pause=(0.0, 0.12))
    crew.wait()
    rows = peaceful(crew)
    # One that was about to leave may have been quicker than the signal.
    assert 0 < crew.codes().count(-signal.SIGKILL) <= done_kills
    assert 0 < reasons(rows)[STALE] <= done_kills
    assert all(row.reason == STALE for row in dead(rows))
    assert done(rows) + len(dead(rows)) == trials
    return rows


def test_workers_killed_at_random_moments_cost_no_result(hire: Hire) -> None:
    killed(hire, trials=24, kills=8, seed=1, seconds=(0.1, 0.5))


@pytest.mark.slow  # a hundred kills with what has to be run between them
def test_a_hundred_kills_cost_no_result(hire: Hire) -> None:
    rows = killed(hire, trials=150, kills=100, seed=2, seconds=(0.1, 0.5))
    assert max(row.attempt for row in rows) >= 2


@pytest.mark.slow  # SQLite and its lock file instead of a server; every commit reaches the disk
def test_forty_kills_on_sqlite_cost_no_result(hire: Hire, tmp_path: Path) -> None:
    killed(hire, trials=60, kills=40, seed=3, url=sqlite(tmp_path), seconds=(0.1, 0.5))


def test_a_kill_within_or_between_transactions_costs_one_attempt(hire: Hire) -> None:
    crew = hire(trials=12, seconds=(0.02, 0.1), beat_every=30.0)
    moments = [("commit", n) for n in range(1, 4)] + [("statement", n) for n in range(1, 34, 4)]
    for kind, count in moments:
        crew.start(die=kind, die_on=count)
    until(lambda: not crew.alive(), "the death of every worker")
    assert crew.codes() == [-signal.SIGKILL] * len(moments)
    crew.start(2)
    crew.wait()
    rows = peaceful(crew)
    assert crew.codes()[-2:] == [DONE, DONE]
    assert reasons(rows)[STALE] <= len(moments)
    assert done(rows) + len(dead(rows)) == 12


def test_a_worker_told_to_leave_gives_its_row_back_at_once(hire: Hire) -> None:
    crew = hire(trials=6, seconds=(0.05, 0.1))
    (slow,) = crew.start(seconds=(600.0, 600.0))
    wait_for(crew, 1)
    crew.start(2)
    wait_for(crew, 5, "complete")
    slow.terminate()
    crew.wait()
    rows = peaceful(crew)
    (row,) = [row for row in rows if row.reason == STOPPED]
    assert row.attrs["detail"] == "SIGTERM"
    assert current(rows)[row.key].attempt == 1
    assert crew.codes() == [STOPPED_CODE, DONE, DONE]


def test_a_worker_leaves_when_its_time_is_over(hire: Hire) -> None:
    crew = hire(trials=2, seconds=(0.05, 0.1))
    crew.start(stop_after=1.0, seconds=(600.0, 600.0))
    crew.wait()
    assert crew.codes() == [STOPPED_CODE]
    (row,) = rows_of(crew.orders)
    assert (row.reason, row.attrs["detail"]) == (STOPPED, "the time is over")
    crew.start(1)
    crew.wait()
    assert done(peaceful(crew)) == 2


def test_a_worker_paused_past_the_grace_wakes_to_one_result(hire: Hire) -> None:
    crew = hire(trials=4, seconds=(0.3, 0.5), grace=2.0)
    (paused,) = crew.start(seconds=(600.0, 600.0))
    (before,) = wait_for(crew, 1)
    os.kill(paused.pid, signal.SIGSTOP)
    crew.start(2)
    until(lambda: done(rows_of(crew.orders)) == 4, "a result of every run")
    os.kill(paused.pid, signal.SIGCONT)
    crew.wait()
    rows = peaceful(crew)
    assert crew.codes() == [DONE] * 3
    assert [row.reason for row in rows if row.number == before.number] == [STALE]
    assert current(rows)[before.key].attempt == 1


def test_a_worker_woken_while_its_run_is_repeated_keeps_one_result(hire: Hire) -> None:
    crew = hire(trials=1, grace=2.0, seconds=(2.0, 2.0))
    (paused,) = crew.start()
    wait_for(crew, 1)
    time.sleep(1.0)
    os.kill(paused.pid, signal.SIGSTOP)
    (taker,) = crew.start(seconds=(4.0, 4.0), epochs=40)
    until(lambda: len(rows_of(crew.orders)) == 2, "the retry")
    os.kill(paused.pid, signal.SIGCONT)
    crew.wait()
    rows = peaceful(crew)
    assert crew.codes() == [DONE, DONE], crew.said()
    assert done(rows) == 1
    assert taker.exitcode == DONE


def test_outcomes_that_may_pass_are_retried_once_and_others_never(hire: Hire) -> None:
    crew = hire(trials=30, failing={"oom": 0.1, "nan": 0.1, "error": 0.1}, seconds=(0.0, 0.01))
    crew.start(4)
    crew.wait()
    rows = peaceful(crew)
    assert set(reasons(rows)) & {"oom", "nan", "error"}
    retried = {row.root for row in rows if row.attempt == 1}
    for row in rows:
        if row.attempt == 0 and row.reason in ("oom", "error"):
            assert row.root in retried
        if row.reason == "nan":
            assert row.number not in retried
    assert DONE in crew.codes()
    assert set(crew.codes()) <= {DONE, STOPPED_CODE}  # one may have met three in a row


def test_a_worker_whose_runs_all_fail_leaves_and_others_go_on(hire: Hire) -> None:
    crew = hire(trials=12, seconds=(0.05, 0.1))
    broken, *_ = crew.start(1, always="oom")
    wait_for(crew, 1, "failed")
    crew.start(2)
    crew.wait()
    rows = peaceful(crew)
    assert broken.exitcode == STOPPED_CODE
    assert "3 runs failed one after another" in crew.said()
    assert reasons(rows)["oom"] == 3
    assert crew.codes()[1:] == [DONE, DONE]


def test_a_disk_that_cannot_be_written_costs_no_run(hire: Hire, tmp_path: Path) -> None:
    crew = hire(trials=6, seconds=(0.05, 0.1))
    (tmp_path / "results").mkdir()
    missing = tmp_path / "unmounted" / "results"
    (unlucky,) = crew.start(folder=str(missing))
    until(lambda: unlucky.exitcode is not None, "the worker on a broken disk")
    assert unlucky.exitcode not in (DONE, STOPPED_CODE)
    (row,) = rows_of(crew.orders)
    assert row.reason == STOPPED
    assert "the run cannot be written" in row.attrs["detail"]
    assert "No such file or directory" in row.attrs["detail"]
    crew.start(2, folder=str(tmp_path / "results"))
    crew.wait()
    rows = peaceful(crew)
    assert done(rows) == len(list((tmp_path / "results").iterdir())) == 6
    assert "the run cannot be written" in crew.said()


@pytest.mark.slow  # sixteen processes, each with its own start
def test_sixteen_workers_keep_the_budget_and_lose_nothing(hire: Hire) -> None:
    crew = hire(trials=120, width=48, seconds=(0.2, 0.6))
    crew.start(16)
    crew.wait(180.0)
    rows = peaceful(crew)
    assert set(crew.codes()) == {DONE}
    assert set(reasons(rows)) <= {"budget", "duplicate"}
    assert len({row.worker for row in rows}) == 16
    assert done(rows) == len(crew.stored()) == 120
