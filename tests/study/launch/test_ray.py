"""A real Ray cluster of this machine: what its actors do when workers end, die or are told."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kit_hand import SECRET, Hands, hands

from fairtune.errors import ConfigError, FairtuneError, StudyError
from fairtune.study.launch import LAUNCHERS, Crew
from fairtune.study.worker import StopFlag

PATIENCE = 120.0


def ray(**settings: Any) -> Any:
    return LAUNCHERS.parse({"ray": {"address": "none", **settings}})


class Watch:
    """What is told, and what is done while the launcher waits."""

    def __init__(self, act: Callable[[], Any] = lambda: None) -> None:
        self.told: list[str] = []
        self.stop = StopFlag()
        self.act = act
        self.end = time.monotonic() + PATIENCE

    def look(self) -> None:
        """Act; end what takes for ever."""
        if time.monotonic() > self.end:
            raise AssertionError(f"this takes for ever: {self.told}")
        self.act()

    def launch(self, launcher: Any, made: Hands) -> None:
        assert launcher.launch(made.crew, self.stop, self.told.append, self.look)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Check that no process of Ray is left, and that signals are answered as before."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    others = {process.pid for process in psutil.Process().children(recursive=True)}
    yield
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    end = time.monotonic() + 30
    while (left := _beside(others)) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []


def _beside(others: set[int]) -> list[str]:
    """Return the names of processes that were started below this one since."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.pid not in others and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.name())
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.slow  # ten seconds are Ray's: its start, its actors, its end
@pytest.mark.needs("ray")
@pytest.mark.usefixtures("nothing_left")
def test_workers_and_actors_that_die_are_started_again(tmp_path: Path) -> None:
    # The first ends last: once one has found the work done, others are not waited for.
    plan = {0: ["await"], 1: ["die", "await"], 2: ["stay", "await"], 3: ["exit 2"]}
    made = hands(tmp_path, plan, options=["--together=1"])
    killed: list[int] = []

    def kill_an_actor() -> None:
        if not killed and made.diary(2):
            killed.append(psutil.Process(made.pid(2)).ppid())
            os.kill(killed[0], signal.SIGKILL)
        again = made.acts(2).count("begun") + made.acts(1).count("begun")
        if again == 4 and made.acts(3) == ["begun", "left 2"]:
            (tmp_path / "go").touch()

    watch = Watch(kill_an_actor)
    watch.launch(ray(cpus=0.5), made)
    assert watch.told[0] == (
        f"4 workers with 0.5 cores and 0 accelerators each, logs in {made.crew.folder}"
    )
    assert killed
    assert made.acts(0) == ["begun", "left 0"]
    assert made.acts(1) == ["begun", "begun", "left 0"]
    assert made.acts(2).count("begun") == 2
    assert "left 0" in made.acts(2)
    assert made.acts(3) == ["begun", "left 2"]
    assert "worker 1: killed by SIGKILL; started again (1 of 3)" in watch.told
    assert made.words(0)[-4:] == ["worker", "--study=tiny", "--together=1", "--slot=0"]
    assert SECRET in made.environment(0)["FAIRTUNE_STORAGE"]
    assert not [line for line in watch.told if SECRET in line]


@pytest.mark.slow  # ten seconds are Ray's
@pytest.mark.needs("ray")
@pytest.mark.usefixtures("nothing_left")
def test_workers_are_told_to_leave_and_have_their_time(tmp_path: Path) -> None:
    made = hands(tmp_path, {0: ["stay"], 1: ["deaf"], 2: ["stay"]})

    def leave() -> None:
        if made.diary(0) and made.diary(1):
            watch.stop.request("SIGTERM")

    watch = Watch(leave)
    # The third has no place while the others stay, and is not waited for.
    cores = (os.cpu_count() or 1) / 2
    watch.launch(ray(grace=5, cpus=cores), made)
    assert made.acts(0) == ["begun", "SIGTERM", "left 75"]
    assert "worker 1: has not left within 5 s; killed" in watch.told


@pytest.mark.needs("ray")
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "head", "auto"])
def test_a_cluster_that_is_not_there_is_said(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    made = hands(tmp_path, {0: ["exit 0"]})
    with pytest.raises(StudyError, match="there is no Ray cluster") as caught:
        ray(address=address).launch(made.crew, StopFlag(), print, print)
    assert address in str(caught.value.found)
    assert made.diary(0) == []


def crew(**changes: Any) -> Crew:
    given: dict[str, Any] = {"workers": 2, **changes}
    return Crew("tiny", "", Path("x"), **given)


class Cluster:
    """Says what it has, as `ray.cluster_resources` does."""

    def __init__(self, **has: float) -> None:
        self.has = has

    def cluster_resources(self) -> dict[str, float]:
        return self.has


@pytest.mark.parametrize(
    ("settings", "given", "has", "gpus"),
    [
        ({}, {}, {"GPU": 8.0}, 1.0),
        ({}, {"per_device": 4}, {"GPU": 8.0}, 0.25),
        ({}, {"processes": 4}, {"GPU": 8.0}, 4.0),
        ({}, {}, {"CPU": 8.0}, 0.0),
        ({"gpus": 2}, {}, {}, 2.0),
        ({"gpus": 0}, {}, {"GPU": 8.0}, 0.0),
    ],
)
def test_what_a_worker_asks_of_a_cluster(
    settings: dict[str, Any], given: dict[str, Any], has: dict[str, float], gpus: float
) -> None:
    assert ray(**settings).share(crew(**given), Cluster(**has)) == gpus


def test_a_part_of_several_accelerators_is_refused() -> None:
    with pytest.raises(ConfigError, match="either a part") as caught:
        ray().launch(crew(processes=2, per_device=2), StopFlag(), print, print)
    assert caught.value.found == 2


def test_only_a_cluster_of_this_machine_reaches_a_storage_of_it() -> None:
    assert ray().elsewhere is False
    assert ray(address="auto").elsewhere
    assert ray(address="head:6379").elsewhere


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"gpus": -1}, {"restarts": -1}, {"grace": 0}])
def test_a_setting_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(FairtuneError):
        ray(**wrong)
