"""Processes that share runs: what reaches them, and what their end says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from fairtune.config.settings import launched
from fairtune.training.spawned import shared_by, spawn

# Does what its word says, and writes that down; `code N` leaves with N, `stay` once it is told.
RANK = """
import os, signal, sys, time
folder, *words = sys.argv[1:]
rank = os.environ["RANK"]
word = words[int(rank)]
diary = open(os.path.join(folder, rank), "a", buffering=1)
said = []

def hear(number, frame):
    said.append(number)
    diary.write(signal.Signals(number).name + "\\n")

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, hear)
diary.write(f"begun {os.getpid()}\\n")
while word == "deaf" or (word == "stay" and not said):
    time.sleep(0.02)
if word == "die":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(75 if word == "stay" else int(word.split()[1]))
"""
ROOT = Path(__file__).parents[2]


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-c", RANK, str(folder), *words]


def begun(folder: Path, count: int) -> list[int]:
    """Return the numbers of the processes once all have begun."""

    def look() -> list[int]:
        found = [p.read_text().split() for p in folder.iterdir() if p.name.isdigit()]
        return [int(words[1]) for words in found if len(words) > 1]

    wait_for(lambda: len(look()) == count)
    return look()


def wait_for(until: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not until():
        assert time.monotonic() < end, "this never came"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["code 0", "code 0"], 0),
        (["code 75", "code 0"], 75),
        (["code 2", "code 0", "code 0"], 2),
        (["die", "code 0"], 1),
    ],
)
def test_the_first_process_speaks_for_all(tmp_path: Path, words: Sequence[str], code: int) -> None:
    assert spawn(len(words), command(tmp_path, *words)) == code
    assert all(gone(pid) for pid in begun(tmp_path, len(words)))


@pytest.mark.parametrize(("words", "code"), [(["deaf", "code 1"], 1), (["code 2", "deaf"], 2)])
def test_one_that_is_left_alone_does_not_stay(
    tmp_path: Path, words: Sequence[str], code: int
) -> None:
    assert spawn(2, command(tmp_path, *words), grace=0.5) == code
    assert all(gone(pid) for pid in begun(tmp_path, 2))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_every_process(tmp_path: Path, sent: signal.Signals) -> None:
    words = [sys.executable, "-c", _spawning(2), *command(tmp_path, "stay", "stay")]
    parent = subprocess.Popen(words, cwd=ROOT)
    try:
        begun(tmp_path, 2)
        parent.send_signal(sent)
        assert parent.wait(timeout=60) == 75
    finally:
        parent.kill()
        parent.wait()
    assert [(tmp_path / rank).read_text().split("\n")[1] for rank in "01"] == [sent.name] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of that")
def test_they_do_not_outlive_the_one_that_started_them(tmp_path: Path) -> None:
    words = [sys.executable, "-c", _spawning(2), *command(tmp_path, "stay", "stay")]
    parent = subprocess.Popen(words, cwd=ROOT)
    try:
        ranks = begun(tmp_path, 2)
    finally:
        parent.kill()
        parent.wait()
    for pid in ranks:
        wait_for(lambda pid=pid: gone(pid))
    assert {(tmp_path / rank).read_text().split("\n")[1] for rank in "01"} == {"SIGTERM"}


def _spawning(count: int) -> str:
    return (
        "import sys; from fairtune.training.spawned import spawn; "
        f"sys.exit(spawn({count}, sys.argv[1:]))"
    )


def test_a_program_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(FileNotFoundError):
        spawn(2, ["no-such-program"])
    assert signal.getsignal(signal.SIGTERM) is before


def test_they_are_told_apart_as_torchrun_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    made = shared_by(3, os.environ)
    assert [launched(environment) for environment in made] == [(3, 0), (3, 1), (3, 2)]
    assert len({(e["MASTER_PORT"], e["TORCHELASTIC_RUN_ID"]) for e in made}) == 1
    assert {e["OMP_NUM_THREADS"] for e in made} == {"1"}
    assert {e["OMP_NUM_THREADS"] for e in shared_by(2, {"OMP_NUM_THREADS": "4"})} == {"4"}
