"""The bench of many workers runs, and its figures reach the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cluster_page
import pytest

HERE = Path(__file__).parent
SPREAD = {"median": 12.4, "p95": 40.6}


def row(workers: int, **changes: Any) -> dict[str, Any]:
    names = ("ledger", "busy", "reap", "claim", "finish", "report", "draw")
    made = {f"{name}_ms": SPREAD for name in names}
    made |= {"workers": workers, "connections": workers + 1, "load": 1.5, "commits": 7.0}
    made |= {"seconds": 8.0, "server_seconds": 0.32}
    return {**made, "trials": 16, "lost": 0, "doubled": 0, "violations": [], **changes}


def measured(*rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "command": "python tests/bench/cluster.py",
        "commit": None,
        "machine": {"cores": 2, "cpu": "a processor"},
        "quick": False,
        "matter": {
            "sampler": "random",
            "width": 48,
            "seconds": [8.0, 12.0],
            "epochs": 8,
            "each": 16,
            "max_connections": 266,
            "nice": 0,
        },
        "rows": list(rows),
        "per_worker": 1.5,
        "default_serves": 64,
    }


def pages(found: dict[str, Any], folder: Path) -> tuple[str, str]:
    """Write the page and the block of another one, and return both."""
    (folder / "cluster.json").write_text(json.dumps(found))
    other = folder / "storages.md"
    other.write_text("before\n<!-- measured storage -->\nold\n<!-- /measured storage -->\nafter\n")
    page = folder / "measured.md"
    command = [sys.executable, HERE / "measured.py", "--cluster", folder / "cluster.json"]
    subprocess.run([*command, "--storages-page", other, "--out", page], check=True)
    return page.read_text(), other.read_text()


def test_the_page_says_what_a_trial_costs_and_whether_that_is_little(tmp_path: Path) -> None:
    slow = row(64, ledger_ms={"median": 61.0, "p95": 99.0}, violations=["x"])
    page, other = pages(measured(row(8), slow), tmp_path)
    assert "## Many workers on one PostgreSQL" in page
    assert f"| 8 | {'12 (41) | ' * 7}7.0 | 1.5 |" in page
    assert "at the median: **missed** with 64 workers" in page
    assert other.startswith("before\n<!-- measured storage -->\n| workers |")
    assert other.endswith("<!-- /measured storage -->\nafter\n")
    assert "1 lost, doubled or against a rule; the worst median is 61 ms" in other
    assert "default of 100 serves about 64 of them" in other
    page, other = pages(measured(row(8)), tmp_path)
    assert "at the median: met" in page
    assert "none lost" in other


def test_the_arithmetic_of_very_many_workers_is_shown(tmp_path: Path) -> None:
    look = {"rows": 500, "whole_ms": 600.0, "whole_server_ms": 200.0, "beaten_ms": 40.0}
    look |= {"beat_server_ms": 3.0}
    lines = cluster_page.reach(measured(row(8), row(64)), {"rows": [{**look, "rows": 50}, look]})
    # 1,000 workers, 30 minutes: .556 trials a second, each 20 ms and a look at 1,000 rows, 400 ms;
    # 16.7 beats a second at 3 ms.
    commits = 1000 / 1800 * 7 + 1000 / 60
    busy = 1000 / 1800 * (0.02 + 0.4) + 1000 / 60 * 0.003
    assert f"| 30 min | 0.56 | {commits:.0f} | {busy:.2f} |" in lines
    assert "2.0 trials a second, with 20 ms" in lines[-1]
    assert "about 1,500 connections: beyond about 64 workers" in lines[-1]


@pytest.mark.slow  # starts a server
@pytest.mark.needs("postgres")
def test_a_look_at_a_study_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "reading.json"
    command = [sys.executable, HERE / "reading.py", "--rows", "4,9", "--rounds", "2"]
    subprocess.run([*command, "--out", path], check=True, capture_output=True, timeout=300)
    found = json.loads(path.read_text())["rows"]
    assert [each["rows"] for each in found] == [4, 9]
    assert all(each["whole_ms"] > 0 and each["same_ms"] > 0 for each in found)


@pytest.mark.slow  # starts a server and four workers
@pytest.mark.needs("postgres")
def test_it_measures_real_workers(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    command = [sys.executable, HERE / "cluster.py", "--quick", "--out", path]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    found = json.loads(path.read_text())
    assert [r["workers"] for r in found["rows"]] == [1, 3]
    for each in found["rows"]:
        assert (each["lost"], each["doubled"], each["violations"], each["crashed"]) == (
            0,
            0,
            [],
            0,
        )
        assert each["trials"] == 2 * each["workers"]
        assert 0 < each["claim_ms"]["median"] < each["ledger_ms"]["median"]
        assert 0 < each["commits"] <= 10
        assert each["connections"] >= each["workers"]
    assert found["default_serves"] >= 1
