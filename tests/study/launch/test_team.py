"""Workers of this machine: what happens to them, and to those who started them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from kit_hand import Hands, hands

from fairtune.errors import ConfigError, StudyError
from fairtune.study.launch.crew import Crew
from fairtune.study.launch.local import Local, places_of
from fairtune.study.launch.team import Team
from fairtune.study.worker import StopFlag

PATIENCE = 60.0


def wait_for(until: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end, "this never came"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Tell whether a process has ended, perhaps not yet waited for by whoever inherited it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def team(made: Hands, told: list[str], **changes: Any) -> Team:
    given = {"restarts": 1, "tell": told.append, **changes}
    return Team(made.crew, lambda slot: {"PLACE": f"place {slot}"}, **given)


def until_over(running: Team) -> None:
    end = time.monotonic() + PATIENCE
    while running.going():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairtune.study.launch.team._FIRST_PAUSE", 0.1)


def test_a_worker_has_the_storage_in_its_environment_alone(tmp_path: Path) -> None:
    made, told = hands(tmp_path, {0: ["exit 0"], 1: ["exit 0"]}, options=["--together=2"]), []
    with team(made, told) as running:
        until_over(running)
        running.check()
    for slot in (0, 1):
        environment = made.environment(slot)
        assert environment["FAIRTUNE_STORAGE"] == made.crew.storage
        assert environment["PLACE"] == f"place {slot}"
        words = ["-m", "fairtune", "worker", "--study=tiny", "--together=2", f"--slot={slot}"]
        assert made.words(slot) == words
    assert told == []
    assert running.log(1).read_text() == "".join(f"{line}\n" for line in made.diary(1))


def test_a_worker_that_dies_is_started_again_as_often_as_said(tmp_path: Path) -> None:
    plan = {0: ["die", "exit 0"], 1: ["die"], 2: ["exit 1", "exit 75"], 3: ["exit 0"]}
    made, told = hands(tmp_path, plan), []
    with team(made, told) as running:
        until_over(running)
        running.check()
    assert running.ended == {0: 0, 1: -signal.SIGKILL, 2: 75, 3: 0}
    assert made.acts(0) == ["begun", "begun", "left 0"]
    assert made.acts(1) == ["begun", "begun"]
    assert "worker 0: killed by SIGKILL; started again in 0 s (1 of 1)" in told
    assert "worker 2: left with exit code 1; started again in 0 s (1 of 1)" in told
    assert f"worker 1: killed by SIGKILL; see {running.log(1)}" in told
    assert len(told) == 4


def test_a_worker_whose_fault_a_person_has_to_mend_is_not_started_again(tmp_path: Path) -> None:
    made, told = hands(tmp_path, {0: ["exit 2"], 1: ["exit 0"]}), []
    with team(made, told) as running:
        until_over(running)
        running.check()
    assert made.acts(0) == ["begun", "left 2"]
    assert told == [f"worker 0: left with exit code 2; see {running.log(0)}"]


def test_an_end_of_all_workers_before_the_work_was_done_is_an_error(tmp_path: Path) -> None:
    made, told = hands(tmp_path, {0: ["exit 2"]}), []
    with team(made, told) as running:
        until_over(running)
        with pytest.raises(StudyError, match="every worker has left") as caught:
            running.check()
    assert "left 2" in str(caught.value.found)
    assert caught.value.where == running.log(0)


def test_workers_that_are_told_to_leave_have_their_time(tmp_path: Path) -> None:
    made, told = hands(tmp_path, {0: ["stay"], 1: ["stay"], 2: ["die"]}), []
    with team(made, told, restarts=99) as running:
        wait_for(lambda: running.going() and made.diary(0) and made.diary(1) and told)
        running.dismiss()
        running.dismiss()
        until_over(running)
        running.check()
    assert {running.ended[0], running.ended[1]} == {75}
    for slot in (0, 1):
        assert made.acts(slot) == ["begun", "SIGTERM", "left 75"]


def test_a_worker_that_does_not_hear_is_killed_in_the_end(tmp_path: Path) -> None:
    made, told = hands(tmp_path, {0: ["deaf"], 1: ["stay"]}), []
    with team(made, told, grace=3.0) as running:
        wait_for(lambda: made.diary(0) and made.diary(1))
        running.dismiss()
        until_over(running)
        running.check()
    assert running.ended == {0: -signal.SIGKILL, 1: 75}
    assert told[0] == "worker 0: has not left within 3 s; killed"


def test_nothing_is_left_when_the_team_is_left_by_an_error(tmp_path: Path) -> None:
    made = hands(tmp_path, {0: ["deaf"]})

    def second_interrupt() -> None:
        with team(made, []):
            wait_for(lambda: made.diary(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        second_interrupt()
    assert gone(made.pid(0))


PARENT = """
import sys, time
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from kit_hand import hands
from fairtune.study.launch.team import Team
made = hands(Path(sys.argv[1]), {0: ["stay"]})
with Team(made.crew, lambda slot: {}, 0, print) as running:
    while running.going():
        time.sleep(0.1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of that")
def test_workers_do_not_outlive_the_command_that_started_them(tmp_path: Path) -> None:
    words = [sys.executable, "-c", PARENT, str(tmp_path), str(Path(__file__).parent)]
    parent = subprocess.Popen(words, cwd=Path(__file__).parents[3])
    made = Hands(tmp_path, Crew("tiny", "", tmp_path, 1))
    try:
        wait_for(lambda: made.diary(0) or parent.poll() is not None)
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: "left 75" in made.diary(0))
    assert made.acts(0) == ["begun", "SIGTERM", "left 75"]
    wait_for(lambda: gone(made.pid(0)))


def test_a_log_that_cannot_be_written_starts_nothing(tmp_path: Path) -> None:
    made = hands(tmp_path, {0: ["deaf"], 1: ["deaf"]})
    (made.crew.folder / "worker-1.log").mkdir(parents=True)
    with pytest.raises(StudyError, match="cannot write the log"), team(made, []):
        pass
    wait_for(lambda: not made.diary(0) or gone(made.pid(0)))


def test_the_launcher_waits_and_tells(tmp_path: Path) -> None:
    made, told, looks = hands(tmp_path, {0: ["stay"], 1: ["stay"]}), [], []
    stop = StopFlag()

    def look() -> None:
        looks.append(1)
        if made.diary(0) and made.diary(1):
            stop.request("SIGINT")

    assert Local().launch(made.crew, stop, told.append, look)
    assert told == [f"2 workers, logs in {made.crew.folder}"]
    assert made.acts(0) == made.acts(1) == ["begun", "SIGTERM", "left 75"]
    assert looks


def crew(**changes: Any) -> Crew:
    given: dict[str, Any] = {"workers": 1, **changes}
    return Crew("tiny", "", Path(), **given)


@pytest.mark.parametrize(
    ("given", "devices"),
    [
        ({"workers": 2, "devices": "01"}, ["0", "1"]),
        ({"workers": 1, "devices": "01"}, ["0"]),
        ({"workers": 4, "devices": "01", "per_device": 2}, ["0", "1", "0", "1"]),
        ({"workers": 3, "devices": "01", "per_device": 2}, ["0", "1", "0"]),
        ({"workers": 2, "devices": "0123", "processes": 2}, ["0,1", "2,3"]),
        ({"workers": 4, "devices": "0123", "processes": 2, "per_device": 2},
         ["0,1", "2,3", "0,1", "2,3"]),
    ],
)  # fmt: skip
def test_devices_are_given_out(given: Mapping[str, Any], devices: list[str]) -> None:
    found = places_of(crew(**given), cores=8)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in found] == devices


@pytest.mark.parametrize(
    "given",
    [
        {"workers": 3, "devices": "01"},
        {"workers": 2, "devices": "012", "processes": 2},
        {"workers": 1, "devices": "0", "processes": 2},
        {"workers": 2, "per_device": 2},
    ],
)
def test_more_workers_than_there_is_place_for_are_refused(given: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        places_of(crew(**given), cores=8)
    assert caught.value.todo


def test_without_accelerators_the_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads = [p["OMP_NUM_THREADS"] for p in places_of(crew(workers=3), cores=8)]
    assert threads == ["2", "2", "2"]
    assert places_of(crew(workers=4, processes=4), cores=8)[0] == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert places_of(crew(workers=3), cores=8)[0] == {"OMP_NUM_THREADS": "5"}
