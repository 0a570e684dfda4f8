"""`fairtune search` as a process: killed, interrupted, shared, resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kit_cli import files, here, process
from kit_tiny import study_fields, write_study

from fairtune.study.ledger import Ledger
from fairtune.study.place import Place
from fairtune.study.rows import BASELINE, CONFIRM, SEARCH, Row, current, roots
from fairtune.study.storages import open_storage, sole_worker

SMALL = {"baselines": ["norm:all"], "confirm": {"top": 1, "seeds": 1}}


def rows(out: Path, phase: str = SEARCH) -> list[Row]:
    place = Place(out, "tiny")
    with Ledger.open(place.url, "tiny") as ledger:
        return ledger.rows(phase)


def wait_for(child: subprocess.Popen[str], out: Path, finished: int) -> None:
    """Return once `finished` rows of the search are complete and another one runs."""
    end = time.monotonic() + 180
    while time.monotonic() < end and child.poll() is None:
        if (out / "tiny" / "study.db").is_file():
            try:
                states = [row.state for row in rows(out)]
            except Exception:
                states = []  # not made yet
            if states.count("complete") >= finished and "running" in states:
                return
        time.sleep(0.1)
    pytest.fail(f"the search did not come that far: {child.communicate()}")


def test_a_dry_run_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search", write_study(tmp_path / "in"), "--dry-run", "--out", tmp_path / "out"]
    code, out, _ = here(words, monkeypatch, capsys)
    assert code == 0
    assert "nothing is trained" in out
    assert not (tmp_path / "out").exists()


def test_a_search_says_what_it_does_and_resumes_to_a_larger_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_study(tmp_path / "in", **{**SMALL, "budget": {"trials": 2}})
    words = ["search", file, "--out", tmp_path / "out"]
    code, out, err = here(words, monkeypatch, capsys)
    assert code == 0, err
    for word in ("study tiny: sqlite:", "search 2/2", "confirm 1 search-1", "pick by 'best'",
                 "budget of the search: 2 trials", "not in the budget: 6 baseline runs",
                 "search ended by budget.trials: 2 trials"):  # fmt: skip
        assert word in out, out
    before = rows(tmp_path / "out")
    code, out, _ = here([*words, "--trials", "3", "--stop", "auto"], monkeypatch, capsys)
    assert code == 0
    assert "none once nothing rises any more" in out
    after = rows(tmp_path / "out")
    assert [row.key for row in after[:2]] == [row.key for row in before]
    assert len(after) == 3
    assert "search 3/3" in out
    assert "search 2/3" not in out


def test_a_second_worker_of_sqlite_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (out / "tiny").mkdir(parents=True)
    with sole_worker(open_storage(Place(out, "tiny").url)):
        words = ["search", write_study(tmp_path / "in", **SMALL), "--out", out]
        code, _, err = here(words, monkeypatch, capsys)
    assert code == 2
    assert "another worker works on this SQLite file" in err
    assert "--storage local" in err
    assert rows(out) == []


@pytest.mark.slow
def test_a_killed_search_loses_no_finished_trial_and_makes_no_extra_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["search", write_study(tmp_path / "in", **{**SMALL, "budget": {"trials": 6}})]
    child = process([*words, "--out", out])
    wait_for(child, out, 2)
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=30)
    child.communicate()
    before = {row.key: row for row in rows(out) if row.state == "complete"}
    whole = {p for p in files(out) if p.endswith("DONE")}
    again = process([*words, "--out", out])
    said, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    after = rows(out)
    assert len(roots(after)) == 6
    speaking = current(after)
    assert len(speaking) == 6
    assert {row.state for row in speaking.values()} == {"complete"}
    for key, row in before.items():
        assert speaking[key].values == row.values
        assert speaking[key].number == row.number
    lost = [row for row in after if row.state == "failed"]
    assert [row.reason for row in lost] == ["stale"]
    assert whole <= files(out)
    runs = {Path(p).parts[2] for p in files(out) if p.endswith("DONE")}
    wanted = {r.key for phase in (SEARCH, BASELINE, CONFIRM) for r in rows(out, phase)}
    assert runs == wanted
    assert not [p for p in files(out) if ".part" in p]
    assert "pick by" in said


@pytest.mark.slow
def test_a_search_killed_within_a_run_goes_on_from_its_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = study_fields()["recipe"]
    recipe["optim"] |= {"epochs": 15}
    changes = {"recipe": recipe, "baselines": [], "confirm": {"top": 0, "seeds": 1}}
    file = write_study(tmp_path / "in", **changes, budget={"trials": 2})
    out, other = tmp_path / "out", tmp_path / "other"
    child = process(["search", file, "--out", out])
    state = wait_for_checkpoint(child, out)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=30)
    key = state.parents[2].name
    done = json.loads(state.read_text())["epoch"]
    again = process(["search", file, "--out", out])
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    # The same study, never killed, and with both trials made at once.
    words = ["search", file, "--out", other, "--together", "2"]
    code, _, err = here(words, monkeypatch, capsys)
    assert code == 0, err
    folders = [Place(where, "tiny").runs.folder(key) for where in (out, other)]
    lines = (folders[0] / "attempts" / "1" / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["epochs_done"] >= done >= 1
    scores = [(folder / "val_scores.npy").read_bytes() for folder in folders]
    assert scores[0] == scores[1]
    for where in (out, other):
        assert not [p for p in files(where) if "checkpoint" in p or p.endswith("state.json")]
    found = [{r.key: r.values for r in rows(w) if r.state == "complete"} for w in (out, other)]
    assert len(found[0]) == 2
    assert found[0] == found[1]


def wait_for_checkpoint(child: subprocess.Popen[str], out: Path) -> Path:
    """Return the first checkpoint's state once it is there."""
    end = time.monotonic() + 180
    while time.monotonic() < end and child.poll() is None:
        found = list(out.glob("runs/*/*/attempts/0/state.json"))
        if found:
            return found[0]
        time.sleep(0.02)
    pytest.fail(f"no checkpoint was written: {child.communicate()}")


@pytest.mark.slow
def test_an_interrupted_search_ends_cleanly_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By Ctrl-C, then by SIGTERM, then not at all."""
    out = tmp_path / "out"
    file = write_study(tmp_path / "in", **{**SMALL, "budget": {"trials": 8}})
    for finished, sent, code in ((1, signal.SIGINT, 130), (3, signal.SIGTERM, 75)):
        child = process(["search", file, "--out", out])
        wait_for(child, out, finished)
        child.send_signal(sent)
        said, err = child.communicate(timeout=60)
        assert child.returncode == code, err
        assert "Traceback" not in err
        assert "the same command goes on from here" in said
        states = [(row.state, row.reason) for row in rows(out)]
        assert ("running", None) not in states
        assert set(states) <= {("complete", None), ("failed", "stopped")}
    code, _, err = here(["search", file, "--out", out], monkeypatch, capsys)
    assert code == 0, err
    assert len(roots(rows(out))) == 8


@pytest.mark.slow
def test_two_searches_share_one_budget_exactly(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["search", write_study(tmp_path / "in", **{**SMALL, "budget": {"trials": 6}})]
    words += ["--out", out, "--storage", f"journal:{tmp_path}/shared.log"]
    both = [process(words) for _ in range(2)]
    ends = [child.communicate(timeout=400) for child in both]
    assert [child.returncode for child in both] == [0, 0], ends
    found = rows(out)
    assert len(roots(found)) == 6
    assert {row.state for row in roots(found)} == {"complete"}
    assert len({row.key for row in roots(found)}) == 6
    for phase, count in ((BASELINE, 6), (CONFIRM, 2)):
        mine = [row for row in rows(out, phase) if row.state == "complete"]
        assert len({row.key for row in mine}) == len(mine) == count
    every = [row for phase in (SEARCH, BASELINE, CONFIRM) for row in rows(out, phase)]
    assert len({row.worker for row in every}) == 2


FULL = """
import subprocess, sys
out = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={sys.argv[2]}", "tmpfs", out], check=True)
sys.argv = ["fairtune", "search", sys.argv[3], "--out", out]
from fairtune.cli.app import main
main()
"""


@pytest.mark.slow
@pytest.mark.needs("small-disk")
@pytest.mark.parametrize("size", ["40k", "400k"])
def test_a_disk_that_fills_up_ends_a_search_with_one_message(tmp_path: Path, size: str) -> None:
    (tmp_path / "out").mkdir()
    apart = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    file = write_study(tmp_path / "in", **{**SMALL, "budget": {"trials": 40}})
    done = subprocess.run(
        [*apart, sys.executable, "-c", FULL, tmp_path / "out", size, file],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FAIRTUNE_DEVICE": "cpu"},
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "full" in done.stderr
