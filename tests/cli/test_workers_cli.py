"""`fairtune search` with several workers, as processes: killed, told to leave, sharing runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from kit_cli import here, process
from kit_tiny import study_fields, write_study

from fairtune.experiment.runs import Runs
from fairtune.study.ledger import Ledger
from fairtune.study.place import Place
from fairtune.study.rows import SEARCH, Row, current, roots

pytestmark = pytest.mark.slow  # each starts several processes that load torch


def study(base: Path, epochs: int, **changes: Any) -> tuple[Path, Path, str]:
    """Return file, results folder and storage of a small study."""
    recipe = study_fields()["recipe"]
    recipe["optim"] |= {"epochs": epochs}
    few = {"baselines": [], "confirm": {"top": 0, "seeds": 1}, **changes}
    file = write_study(base / "in", recipe=recipe, **few)
    return file, base / "out", f"journal:{base / 'study.journal'}"


def rows(url: str) -> list[Row]:
    with Ledger.open(url, "tiny") as ledger:
        return ledger.rows(SEARCH)


def wait_for(child: subprocess.Popen[str], until: Callable[[], Any]) -> Any:
    end = time.monotonic() + 240
    while time.monotonic() < end and child.poll() is None:
        try:
            if found := until():
                return found
        except Exception:
            continue  # not made yet
        time.sleep(0.1)
    return pytest.fail(f"it did not come that far: {child.communicate()}")


def workers(child: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the workers that a search has started."""
    found = psutil.Process(child.pid).children()
    return [p for p in found if "worker" in p.cmdline()]


@pytest.mark.needs("local")
def test_workers_killed_three_times_in_training_lose_nothing(
    outside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a real PostgreSQL, fairtune's own: without --storage several workers get it."""
    file, out, _ = study(outside / "three-kills", 40, budget={"trials": 4})
    child = process(["search", file, "--workers", "2", "--out", out])
    killed: list[str] = []

    def in_training() -> tuple[psutil.Process, str] | None:
        at_work = {str(p.pid): p for p in workers(child)}
        for row in stored(out):
            states = Runs(out).folder(row.key).glob("attempts/*/state.json")
            found = at_work.get(row.worker.split(":")[1])
            # A run that is killed three times fails for good.
            if row.state == "running" and row.key not in killed and found and any(states):
                return found, row.key
        return None

    for _ in range(3):
        victim, key = wait_for(child, in_training)
        victim.kill()
        killed.append(key)
    said, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    assert len(re.findall(r"worker \d: killed by SIGKILL; started again", said)) == 3
    found = stored(out)
    assert len(roots(found)) == 4
    assert [row.state for row in current(found).values()] == ["complete"] * 4
    gone = [row for row in found if row.state == "failed"]
    assert 1 <= len([row for row in gone if row.reason == "stale"]) <= 3
    assert {row.reason for row in gone} <= {"stale", "duplicate"}
    # A run that had begun goes on from its last state.
    logs = [path.read_text() for path in (out / "runs").rglob("log.jsonl")]
    starts = [json.loads(line) for log in logs for line in log.splitlines() if "start" in line]
    assert any(line["epochs_done"] > 0 for line in starts if line["event"] == "start")
    code, told, err = here(["doctor", "--study", "tiny", "--out", out], monkeypatch, capsys)
    assert code == 0, told + err
    assert "all of it agrees" in told


def stored(out: Path) -> list[Row]:
    with Ledger.open(Place(out, "tiny").url, "tiny") as ledger:
        return ledger.rows(SEARCH)


def test_a_search_that_is_told_to_leave_takes_its_workers_with_it(tmp_path: Path) -> None:
    file, out, url = study(tmp_path, 400, budget={"trials": 4})
    words = ["search", file, "--workers", "2", "--out", out, "--storage", url]
    child = process(words)
    wait_for(child, lambda: [row.state for row in rows(url)].count("running") == 2)
    started = workers(child)
    child.send_signal(signal.SIGINT)
    said, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    assert "the same command goes on from here" in said
    assert len(started) == 2
    assert not [p for p in started if p.is_running()]
    left = {(row.state, row.reason) for row in rows(url)}
    # Two workers that begin together may both have begun with the anchor.
    assert left - {("failed", "duplicate")} == {("failed", "stopped")}


def test_processes_that_share_every_run_are_warned_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out, url = study(tmp_path, 60, budget={"trials": 1})
    place = ["--out", out, "--storage", url]
    made = ["search", file, *place, "--launcher", "print", "--gpus-per-run", "2"]
    code, said, err = here(made, monkeypatch, capsys)
    assert code == 0, err
    assert "--gpus-per-run=2" in said
    words = ["worker", "--study", "tiny", *place, "--gpus-per-run", "2"]
    child = process(words)
    wait_for(child, lambda: [row.state for row in rows(url)] == ["running"])
    wait_for(child, lambda: list(out.glob("runs/*/*/attempts/0/log.jsonl")))
    child.send_signal(signal.SIGUSR1)
    said, err = child.communicate(timeout=120)
    assert child.returncode == 75, err
    assert "Traceback" not in err
    assert "stopped (SIGUSR1)" in said
    assert [(row.state, row.reason) for row in rows(url)] == [("failed", "stopped")]
    again = process(words)
    said, err = again.communicate(timeout=240)
    assert again.returncode == 0, err
    assert "left: nothing is left to do" in said
    assert [row.state for row in rows(url)] == ["failed", "complete"]
    # Beside servers that other tests of this process share.
    left = psutil.Process(os.getpid()).children(recursive=True)
    assert not [p for p in left if "fairtune" in p.cmdline()]


@pytest.mark.needs("ray")
def test_workers_on_ray_end_a_study(tmp_path: Path) -> None:
    file, out, url = study(tmp_path, 2, budget={"trials": 2})
    given = ["--launcher", "ray", "--with", "address=none", "--workers", "2"]
    child = process(["search", file, "--out", out, "--storage", url, *given])
    said, err = child.communicate(timeout=240)
    assert child.returncode == 0, err
    assert "search: 2 complete" in said
    assert {row.state for row in rows(url)} == {"complete"}
    assert "Traceback" not in err
