"""Why a search starts no further trial, and what its budget leaves out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit_plan import plan, row

from fairtune.errors import ConfigError
from fairtune.study.bill import bill, confirm_runs, reached
from fairtune.study.budget import Budget, Ending, deadline, device_seconds
from fairtune.study.rows import STALE, Row

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def span(number: int, begin: float, end: float | None, **more: Any) -> Row:
    started = NOON + timedelta(seconds=begin)
    finished = None if end is None else NOON + timedelta(seconds=end)
    state = {"state": "running", "values": None} if end is None else {}
    return row(number, f"d{number}", 0.5, started=started, finished=finished, **{**state, **more})


@settings(max_examples=30)
@given(st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)), st.times())
def test_a_time_of_day_is_the_next_one(now: datetime, clock: Any) -> None:
    now = now.replace(tzinfo=timezone(timedelta(hours=2)))
    found = deadline(f"{clock:%H:%M}", now)
    assert timedelta(0) < found - now <= timedelta(days=1, hours=1)
    assert f"{found:%H:%M}" == f"{clock:%H:%M}"


def test_a_moment_is_itself_and_local_without_an_offset() -> None:
    assert deadline("2026-01-01T13:00+01:00", NOON) == NOON
    local = NOON.astimezone().replace(tzinfo=None)
    assert deadline(local.isoformat(), NOON) == NOON
    with pytest.raises(ConfigError, match="not a time"):
        deadline("tomorrow", NOON)


def test_devices_are_counted_by_worker_and_runs_made_together_once() -> None:
    rows = [
        span(0, 0, 100, worker="a"),
        span(1, 50, 120, worker="a"),
        span(2, 0, 60, worker="b"),
        span(3, 60, None, worker="b"),
        span(4, 0, 10_000, worker="c", state="failed", reason=STALE, values=None),
    ]
    assert device_seconds(rows, NOON + timedelta(seconds=90)) == 120 + 90


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"trials": 2}, "budget.trials: 2 trials"),
        ({"minutes": 2}, "budget.minutes: 2 minutes of search"),
        ({"gpu_hours": 0.05}, "budget.gpu_hours: 0.05 hours on devices"),
        ({"until": "2026-01-01T12:01:59+00:00"}, "budget.until: 2026-01-01T"),
        ({"minutes": 3, "gpu_hours": 0.06, "until": "2026-01-01T12:03Z"}, None),
    ],
)
def test_each_limit_ends_the_search_with_its_name(
    budget: dict[str, Any], reason: str | None
) -> None:
    rows = [span(0, 0, 120, worker="a"), span(1, 40, 100, worker="b")]
    ending = Ending.of(Budget.model_validate({"trials": 9} | budget), [1], 10, NOON)
    found = ending.reason(rows, NOON + timedelta(seconds=120))
    assert found is None if reason is None else str(found).startswith(reason)
    assert ending.reason([], NOON) is None


def test_the_bill_says_in_numbers_what_the_budget_leaves_out() -> None:
    made = plan(budget={"trials": 8, "gpu_hours": 2, "until": "07:30", "stop": "auto"})
    said = bill(made, NOON)
    for words in ("8 trials", "after 2 hours on devices", "07:30", "nothing rises",
                  "4 baseline runs", "at most 8 confirm runs (2 seeds each)", "2 where a worker",
                  "1 where an error"):  # fmt: skip
        assert words in said, words
    off = plan(confirm={"top": 0})
    assert "no confirm runs" in bill(off)
    assert confirm_runs(off.study) == 0


@pytest.mark.parametrize(
    ("budget", "trials"),
    [({}, 10), ({"minutes": 2}, 4), ({"gpu_hours": 1}, 10), ({"until": "2026-01-01T12:01Z"}, 2)],
)
def test_the_trials_that_a_device_gets_through(budget: dict[str, Any], trials: int) -> None:
    made = Budget.model_validate({"trials": 10} | budget)
    assert reached(made, 30.0, NOON) == trials
