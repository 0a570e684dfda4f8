"""`fairtune status`, `watch`, `export` and `dashboard` from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from kit_cli import here, process
from kit_tiny import Tiny

from fairtune.cli.watch import lines
from fairtune.study.follow import Failure, Running, state_of


def test_status_for_people_and_programs(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["status", "tiny", "--out", tiny.place.out]
    code, out, _ = here(words, monkeypatch, capsys)
    assert code == 0
    assert out.startswith("study tiny: worst_auc@sex on validation")
    assert "best 0." in out
    assert "finished; tested: " in out
    code, out, _ = here([*words, "--json"], monkeypatch, capsys)
    told = json.loads(out)
    assert (code, told["finished"], told["running"]) == (0, True, [])
    assert set(told["best"]) == {"label", "value", "runs", "mask", "note", "groups"}


def test_watching_a_finished_study_says_it_once(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["watch", "tiny", "--storage", tiny.place.url, "--out", tiny.place.out / "elsewhere"]
    code, out, _ = here(words, monkeypatch, capsys)
    assert code == 0
    assert out.count("study tiny:") == 1


def test_what_runs_and_what_failed_is_a_line_each(tiny: Tiny) -> None:
    run = Running(
        "search", 7, 2, "", "..#", "node1:12", 90.0, 700.0, False, 2, 8, 0.612
    )  # fmt: skip
    failure = Failure("search", 3, "norm:all", "oom", "out of memory", True)
    state = replace(
        state_of(tiny.view), running=(run,), failures=(failure,) * 7, finished=False,
        left_seconds=7200.0,
    )  # fmt: skip
    told = "\n".join(lines(state))
    assert "search 7 (attempt 2)  ..#  node1:12  epoch 2/8  0.612  beat 11.7 min ago" in told
    assert "silent" in told
    assert "failed (and 2 before)" in told
    assert "search 3 norm:all  oom (will be tried again)  out of memory" in told
    assert "left: about 2.0 h with 1 at once" in told


def test_export_writes_what_it_says(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "tiny", "--out", tiny.place.out, "--to", tmp_path / "to"]
    code, out, _ = here([*words, "--tables", "trials,epochs"], monkeypatch, capsys)
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines()] == [
        str(tmp_path / "to" / "trials.csv"), str(tmp_path / "to" / "epochs.csv"),
    ]  # fmt: skip
    code, _, err = here([*words, "--tables", "trails"], monkeypatch, capsys)
    assert code == 2
    assert "did you mean 'trials'?" in err


READ_ONLY = """
mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 99
exec "$2" -m fairtune.cli.app status tiny --out "$1"
"""


@pytest.mark.slow
@pytest.mark.needs("small-disk")
def test_a_folder_that_can_only_be_read_is_one_message(tiny: Tiny, tmp_path: Path) -> None:
    copy = tiny.copy(tmp_path / "out")
    # A mount name space of its own: whatever becomes of the process, no mount is left behind.
    apart = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    words = [*apart, "sh", "-c", READ_ONLY, "sh", str(copy.place.out), sys.executable]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "cannot be written, which SQLite needs also to read it" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_dashboard_serves_until_it_is_interrupted(tiny: Tiny, tmp_path: Path) -> None:
    copy = tiny.copy(tmp_path / "out")
    child = process(["dashboard", "--out", copy.place.out, "--no-browser"])
    assert child.stdout is not None
    told = [child.stdout.readline() for _ in range(3)]
    assert told[0].startswith("tiny: figures tradeoff, masks, forest; ")
    assert told[1].startswith("http://127.0.0.1:")
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err.strip() == "fairtune: the dashboard has ended; notes and figures stay"


@pytest.mark.slow
def test_search_and_finetune_tell_tensorboard(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kit_tiny import write_study
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small = {"baselines": ["norm:all"], "confirm": {"top": 0}, "budget": {"trials": 1}}
    file = write_study(tmp_path / "in", **small)
    out = tmp_path / "out"
    log = ["--out", out, "--log", "tensorboard"]
    code, _, err = here(["search", file, *log], monkeypatch, capsys)
    assert code == 0, err
    code, _, err = here(["finetune", "--study", "tiny", "--seeds", 1, *log], monkeypatch, capsys)
    assert code == 0, err
    folders = {p.name.partition("-")[0]: p for p in (out / "tensorboard" / "tiny").iterdir()}
    assert set(folders) == {"baseline", "search", "final"}
    events = EventAccumulator(str(folders["final"]))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train_loss", "val_loss", "final/test/auc", "final/seconds"} <= tags
    code, _, err = here(["search", file, "--out", out, "--log", "wandb"], monkeypatch, capsys)
    assert code == 2
    assert "unknown sink" in err
