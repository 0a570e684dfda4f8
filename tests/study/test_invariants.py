"""What must hold of a study's rows: each fault that could be is found and named."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kit_ledger import Search, execute, open_ledger, proposal

from fairtune.config.digest import digest
from fairtune.study.invariants import violations
from fairtune.study.rows import Row
from fairtune.study.worker import Limits, StopFlag, work

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def row(number: int, point: int = 0, state: str = "complete", **more: Any) -> Row:
    made = proposal({"x": point}, {}, replicate=more.pop("replicate", 0))
    given: dict[str, Any] = {
        "phase": "search",
        "number": number,
        "state": state,
        "kind": made.kind,
        "params": made.params,
        "dimensions": {},
        "recipe": made.recipe,
        "digest": made.digest,
        "key": made.key,
        "seed": made.seed,
        "replicate": made.replicate,
        "attempt": 0,
        "root": number,
        "worker": "w",
        "values": (0.5,) if state == "complete" else None,
        "started": NOON + timedelta(hours=number),
        "finished": NOON + timedelta(hours=number, minutes=1),
    }
    return Row(**(given | more))


def failed(number: int, point: int = 0, reason: str = "stale", **more: Any) -> Row:
    return row(number, point, "failed", reason=reason, **more)


def broken(rows: list[Row], budget: int | None = None, **more: Any) -> list[str]:
    return violations({"search": rows}, budget, **more)


def test_a_study_that_was_run_in_peace_breaks_nothing(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        work(ledger, [Search(6)], execute(), Limits(), StopFlag())
        rows = {phase: ledger.rows(phase) for phase in ("search", "baseline", "final")}
        assert violations(rows, 6, objectives=1) == []
        assert violations(rows, 7) == ["search: 6 first attempts of a budget of 7"]
        assert violations(rows, 7, spent=False) == []
        assert violations(rows, 7, ended=False) == []


def test_what_faults_leave_behind_by_the_rules_is_no_fault() -> None:
    rows = [
        failed(0),
        failed(1, attempt=1, root=0),
        failed(2, 1, reason="oom", retryable=True),
        row(3, attempt=2, root=0),
        failed(4, 1, reason="duplicate"),
        failed(5, 1, reason="stopped", attempt=1, root=2),
        failed(6, 1, reason="oom", retryable=True, attempt=2, root=2),
        failed(7, 2, reason="budget"),
        failed(8, 3, reason="superseded", attempt=1, root=9),
    ]
    late = [failed(9, 3), row(10, 3, recovered=True, root=9)]
    assert broken([*rows, *late], 3) == []
    assert broken([row(0), row(2, 1)], foreign={"search": [1]}) == []
    assert broken([row(0, state="running", values=None)], ended=False) == []


FAULTS = {
    "search: row 0 is still running": [row(0, state="running")],
    "search: there is no row 0, 2": [row(1), row(3, 1)],
    "search: row 0 is there 2 times": [row(0), row(0, 1)],
    "a second attempt 0 of run": [row(0, state="running"), failed(1)],
    "rows 1, 2 have a result each": [
        failed(0), row(1, recovered=True, root=0), row(2, attempt=1, root=0)
    ],
    "name several first attempts, 0, 1": [failed(0), row(1, attempt=1)],
    "its first attempt, row 7, is not among": [row(0, root=7)],
    "its attempts are numbered 0, 2": [failed(0), row(1, attempt=2, root=0)],
    "row 1 tries it again after `nan`": [failed(0, reason="nan"), row(1, attempt=1, root=0)],
    "row 3 tries it again after `stale`": [
        failed(0), *(failed(n, attempt=n, root=0) for n in (1, 2)), row(3, attempt=3, root=0)
    ],
    "row 2 tries it again after `oom`": [
        failed(0, reason="oom", retryable=True),
        failed(1, reason="oom", retryable=True, attempt=1, root=0),
        row(2, attempt=2, root=0),
    ],
    "row 0 ended as `stale` and was not tried again": [failed(0)],
    "stands for 2 recipes": [row(0), row(1, 1, digest=row(0).digest)],
    "stands for 2 pairs of recipe and seeds": [
        row(0), failed(1, 1, key=row(0).key, reason="duplicate")
    ],
    "row 0 is complete and has no values": [row(0, values=None)],
    "row 1 has 2 values for 1 objectives": [row(0), row(1, 1, values=(0.1, 0.2))],
    "row 0 has the values [nan]": [row(0, values=(float("nan"),))],
    "has 4 runs, rows 1, 2, 3, 4": [row(0, 1), *(row(n + 1, replicate=n) for n in range(4))],
}  # fmt: skip


@pytest.mark.parametrize("said", FAULTS)
def test_each_fault_is_found_and_named(said: str) -> None:
    found = broken(FAULTS[said])
    assert any(said in each for each in found), found


def test_rows_above_the_budget_are_named() -> None:
    rows = [row(0), row(1, 1), failed(2, 2, reason="nan")]
    above = "search: row 2 is above the budget of 2 and did not end as `budget`"
    assert broken(rows, 2) == [above]
    assert broken([*rows[:2], failed(2, 2, reason="budget")], 2) == []
    assert broken([*rows[:2], failed(2, 2)], 2)[-1] == above


def test_a_space_that_is_used_up_is_repeated_evenly() -> None:
    even = [row(n, point=n % 2, replicate=n // 2) for n in range(9)]
    assert broken(even) == []


def test_final_rows_are_results_not_runs() -> None:
    twice = [row(0, phase="final"), row(1, phase="final")]
    assert violations({"final": twice}, None) == []
    assert violations({"final": [replace(twice[1], values=())]}, None, objectives=1) == [
        "final: there is no row 0",
        "final: row 1 has 0 values for 1 objectives",
    ]


def test_identities_hold_across_phases() -> None:
    other = row(0, phase="baseline", seed={"data": 9}, key=row(0).key)
    (said,) = violations({"search": [row(0)], "baseline": [other]}, None)
    assert said == f"key {digest([row(0).digest, 0])[:12]} stands for 2 pairs of recipe and seeds"
