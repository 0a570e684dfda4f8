"""A real SLURM: what its jobs do when workers end, are warned, cancelled or die.

The workers are small programs that follow a plan, so that seconds go to SLURM alone: the first
pass of its scheduler, and six seconds for which a requeued job has to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kit_hand import SECRET, Hands, hands
from kit_slurm import Cluster, cluster

from fairtune.errors import StudyError
from fairtune.study.launch import LAUNCHERS
from fairtune.study.worker import StopFlag

pytestmark = [pytest.mark.slow, pytest.mark.needs("slurm")]


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture(autouse=True)
def _client(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in slurm.environment.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr("fairtune.study.launch.slurm_wait._PAUSE", 0.5)


def launch(made: Hands, look: Callable[[], None] = lambda: None, **settings: Any) -> list[str]:
    """Launch, and return what was told."""
    told: list[str] = []
    launcher: Any = LAUNCHERS.parse({"slurm": {"gpus": 0, **settings}})
    over = launcher.launch(made.crew, StopFlag(), told.append, look)
    assert over is launcher.wait
    return told


def number(told: list[str]) -> str:
    return told[0].removeprefix("job ").partition(":")[0]


# The first is done, the second is warned, the third is wrong, the fourth dies, the last cancelled.
PLAN = {
    0: ["exit 0"],
    1: ["stay", "exit 0"],
    2: ["exit 2"],
    3: ["die", "exit 0"],
    4: ["stay"],
}


@pytest.mark.parametrize("through", ["submitit", "sbatch"])
def test_jobs_end_or_come_back_as_their_workers_say(
    through: str, slurm: Cluster, tmp_path: Path
) -> None:
    made = hands(tmp_path, PLAN, options=["--together=1"])
    told = launch(made, through=through, time="1h", signal=120)
    job = number(told)
    assert told == [
        f"job {job}: 5 pending",
        f"logs in {made.crew.folder}, which every node has to reach",
        f"cancel: scancel {job}",
    ]
    slurm.wait(lambda: made.diary(1) and made.diary(4), "both stay")
    assert made.words(1)[-2:] == ["--time-budget=58m", "--slot=1"]
    _no_password(slurm, job, tmp_path, made)
    # As the warning comes: to the batch shell alone, or to the steps.
    warn = ["--batch"] if through == "sbatch" else []
    slurm.run("scancel", *warn, "--signal=USR1", f"{job}_1")
    slurm.run("scancel", f"{job}_4")
    ends = ["COMPLETED", "COMPLETED", "FAILED", "COMPLETED", "CANCELLED"]
    wanted = {f"{job}_{slot}": state for slot, state in enumerate(ends)}
    slurm.wait(lambda: slurm.tasks(job) == wanted, str(wanted))
    assert made.acts(0) == ["begun", "left 0"]
    assert made.acts(2) == ["begun", "left 2"]
    assert made.acts(3) == ["begun", "begun", "left 0"]
    assert _once(made.acts(1)) == ["begun", "SIGUSR1", "left 75", "begun", "left 0"]
    assert _once(made.acts(4)) == ["begun", "SIGTERM", "left 75"]
    assert made.environment(1)["SLURM_RESTART_COUNT"] == "1"
    log = next(made.crew.folder.glob(f"{job}_1*.[lo][ou][gt]")).read_text()
    assert log.index("left 75") < log.index("left 0"), "the second run adds to the log"


def _once(acts: list[str]) -> list[str]:
    """Return acts without signals that came twice: some clusters send them to every process."""
    return [act for i, act in enumerate(acts) if i == 0 or act != acts[i - 1]]


def _no_password(slurm: Cluster, job: str, folder: Path, made: Hands) -> None:
    """Check that the storage's password is where it has to be, and nowhere else."""
    assert SECRET in made.environment(1)["FAIRTUNE_STORAGE"]
    shown = slurm.run("scontrol", "show", "--details", "job", job)
    shown += slurm.run("scontrol", "write", "batch_script", f"{job}_1", "-")
    assert "fairtune" in shown
    assert SECRET not in shown
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".env"]
    assert len(files) > 5
    assert [p for p in files if SECRET.encode() in p.read_bytes()] == []


@pytest.mark.parametrize("through", ["submitit", "sbatch"])
def test_a_job_comes_back_only_as_often_as_said(
    through: str, slurm: Cluster, tmp_path: Path
) -> None:
    # At 75 at once, as a worker whose time is spent; ten minutes count as its time in submitit.
    made = hands(tmp_path, {0: ["exit 75"]})
    job = number(launch(made, through=through, requeues=1, time="10m", signal=60))
    slurm.wait(lambda: set(slurm.tasks(job).values()) == {"FAILED"}, "it fails")
    assert made.acts(0) == ["begun", "left 75"] * 2


def test_who_waits_sees_the_jobs_end(slurm: Cluster, tmp_path: Path) -> None:
    made = hands(tmp_path, {0: ["exit 0"], 1: ["exit 2"]})
    looks: list[int] = []
    told = launch(made, lambda: looks.append(1), through="sbatch", wait=True)
    job = number(told)
    assert told[3:] == [f"job {job}_1: FAILED; see {made.crew.folder / f'{job}_1.log'}"]
    assert looks


@pytest.mark.parametrize("through", ["submitit", "sbatch"])
def test_an_end_of_all_jobs_is_an_error_with_the_last_words(
    through: str, slurm: Cluster, tmp_path: Path
) -> None:
    made = hands(tmp_path, {0: ["exit 2"]})
    with pytest.raises(StudyError, match="every worker has left") as caught:
        launch(made, through=through, wait=True)
    assert "FAILED (NonZeroExitCode)" in str(caught.value.found)
    assert "left 2" in str(caught.value.found)


def test_who_waits_may_leave_and_the_jobs_go_on(slurm: Cluster, tmp_path: Path) -> None:
    made, told, stop = hands(tmp_path, {0: ["stay"]}), [], StopFlag()
    launcher: Any = LAUNCHERS.parse({"slurm": {"gpus": 0, "through": "sbatch", "wait": True}})

    def look() -> None:
        if made.diary(0):
            stop.request("SIGINT")

    assert launcher.launch(made.crew, stop, told.append, look) is False
    job = number(told)
    assert told[-1] == f"job {job} goes on without this process; cancel: scancel {job}"
    assert slurm.tasks(job) == {f"{job}_0": "RUNNING"}
    slurm.run("scancel", job)
    slurm.wait(lambda: "left 75" in made.diary(0), "it leaves")


@pytest.mark.parametrize("through", ["submitit", "sbatch"])
def test_what_slurm_refuses_is_told_in_its_words(
    through: str, slurm: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = hands(tmp_path, {0: ["exit 0"], 1: ["exit 0"]})
    before = slurm.tasks()
    with pytest.raises(StudyError, match="SLURM refused") as caught:
        launch(made, through=through, partition="nowhere")
    assert "invalid partition" in str(caught.value.found)
    assert slurm.tasks() == before
    assert capfd.readouterr().err == ""


def test_a_setup_and_options_of_the_user_reach_the_job(slurm: Cluster, tmp_path: Path) -> None:
    made = hands(tmp_path, {0: ["exit 0"]})
    settings = {"setup": ["export COLOUR='deep blue'"], "extra": ["--comment=mine"], "cpus": 2}
    for through in ("submitit", "sbatch"):
        job = number(launch(made, through=through, **settings))
        slurm.wait(lambda job=job: set(slurm.tasks(job).values()) == {"COMPLETED"}, "it ends")
        found = made.environment(0)
        assert found["COLOUR"] == "deep blue"
        assert found["SLURM_CPUS_PER_TASK"] == "2"
        shown = slurm.run("scontrol", "show", "job", job)
        for word in ("Comment=mine", "JobName=fairtune-tiny", "TimeLimit=04:00:00", "Requeue=1"):
            assert word in shown, shown
