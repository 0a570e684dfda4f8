"""What is asked of SLURM: settings, directives, the batch file."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from fairtune.errors import ConfigError, FairtuneError, StudyError
from fairtune.study.launch import LAUNCHERS, Crew
from fairtune.study.launch.slurm_queue import ask, environment, submitted
from fairtune.study.launch.slurm_script import directives, script
from fairtune.study.launch.slurm_submit import submit_pickled, submit_script
from fairtune.study.worker import StopFlag

URL = "postgresql://me:secret@host/db"


def crew(**changes: Any) -> Crew:
    given: dict[str, Any] = {"workers": 4, "python": "/opt/bin/python", **changes}
    return Crew("tiny", URL, Path("/shared/tiny/workers"), **given)


def slurm(**settings: Any) -> Any:
    return LAUNCHERS.parse({"slurm": settings} if settings else "slurm")


def asked(made: Crew | None = None, **settings: Any) -> dict[str, str | None]:
    made = made or crew()
    return directives(slurm(**settings).request(made), made.folder)


def test_what_is_asked_for_without_settings() -> None:
    assert asked() == {
        "job-name": "fairtune-tiny",
        "nodes": "1",
        "ntasks": "1",
        "gpus-per-node": "1",
        "array": "0-3%4",
        "time": "240",
        "output": "/shared/tiny/workers/%A_%a.log",
        "open-mode": "append",
        "requeue": None,
        "signal": "B:USR1@180",
        "export": "ALL",
    }


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"partition": "gpu", "qos": "long"}, {"partition": "gpu", "qos": "long"}),
        ({"account": 1234}, {"account": "1234"}),
        ({"mem": 64000, "cpus": 8}, {"mem": "64000", "cpus-per-task": "8"}),
        ({"time": "1d1h30s"}, {"time": "1501"}),
        ({"parallel": 2}, {"array": "0-3%2"}),
        ({"parallel": 9}, {"array": "0-3%4"}),
        ({"gpus": 0}, {"gpus-per-node": ""}),
        ({"gres": "gpu:a100:1"}, {"gres": "gpu:a100:1", "gpus-per-node": ""}),
        ({"constraint": "hbm", "exclude": "n[1-3]", "nodelist": "n9"},
         {"constraint": "hbm", "exclude": "n[1-3]", "nodelist": "n9"}),
        ({"signal": 60}, {"signal": "B:USR1@60"}),
        ({"extra": "--comment=x"}, {"comment": "x"}),
        ({"extra": ["--exclusive", "--export=A,B", "--array=0-9"]},
         {"exclusive": None, "export": "A,B", "array": "0-9"}),
    ],
)  # fmt: skip
def test_settings_become_options(settings: dict[str, Any], found: dict[str, str | None]) -> None:
    given = asked(**settings)
    assert {name: given.get(name, "") for name in found} == found


def test_a_run_that_several_accelerators_share_gets_them() -> None:
    assert asked(crew(processes=4))["gpus-per-node"] == "4"
    assert "--gpus-per-run=4" in script(slurm().request(crew(processes=4)), crew(processes=4))
    with pytest.raises(ConfigError, match="fewer accelerators") as caught:
        asked(crew(processes=4), gpus=2)
    assert caught.value.allowed == "at least 4, as --gpus-per-run says"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time": "3m"}, "told to leave as they start"),
        ({"time": "soon"}, "a length of time"),
        ({"extra": "exclusive"}, "not an option of sbatch"),
        ({"patition": "gpu"}, "did you mean 'partition'"),
        ({"through": "sbach"}, "sbatch"),
        ({"gpus": -1}, "0"),
        ({"cpus": "many"}, "cpus"),
        ({"wait": "perhaps"}, "wait"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FairtuneError) as caught:
        slurm(**settings)
    assert message in str(caught.value)


def test_workers_cannot_share_a_device_that_slurm_gives() -> None:
    with pytest.raises(ConfigError, match="one job") as caught:
        asked(crew(per_device=2))
    assert "--together" in str(caught.value.todo)


def test_the_batch_file_is_a_shell_script_without_the_password(tmp_path: Path) -> None:
    made = crew(options=["--together=1", "--out=/a b"])
    text = script(slurm(setup="module load cuda").request(made), made)
    file = tmp_path / "x.sbatch"
    file.write_text(text)
    assert subprocess.run(["bash", "-n", file], capture_output=True).stderr == b""
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert lines.index("#SBATCH --array=0-3%4") < lines.index("module load cuda")
    assert (
        "/opt/bin/python -m fairtune worker --study=tiny --together=1 '--out=/a b' "
        "--time-budget=3h57m --slot=$SLURM_ARRAY_TASK_ID &"
    ) in lines
    assert "secret" not in text


def test_print_shows_the_file_and_submits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    told: list[str] = []
    launcher = slurm(through="print")
    assert launcher.launch(crew(), StopFlag(), told.append, lambda: None) is False
    assert told[0] == "# in the environment of sbatch, for postgresql://me:***@host/db:"
    assert told[2] == script(launcher.request(crew()), crew())


@pytest.mark.parametrize("submit", [submit_pickled, submit_script])
def test_without_slurm_nothing_is_written(
    submit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "/nonexistent")
    made = Crew("tiny", URL, tmp_path / "workers", 1)
    with pytest.raises(StudyError, match="there is no SLURM here"):
        submit(slurm().request(made), made)
    assert list(tmp_path.iterdir()) == []


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_a_controller_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "squeue", "exec sleep 600")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("fairtune.study.launch.slurm_queue.PATIENCE", 0.5)
    with pytest.raises(StudyError, match="has not answered") as caught:
        ask(["squeue", "--noheader"])
    assert "scontrol ping" in str(caught.value.todo)


def test_the_job_is_found_in_what_sbatch_says() -> None:
    assert submitted("Submitted batch job 123\n") == "123"
    assert submitted("Submitted batch job 77 on cluster big") == "77"
    with pytest.raises(StudyError):
        submitted("welcome to the cluster")


def test_what_a_job_around_it_has_left_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_CONF", "SBATCH_ACCOUNT", "MINE"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    found = environment(crew())
    assert found["FAIRTUNE_STORAGE"] == URL
    assert {"SLURM_CONF", "SBATCH_ACCOUNT", "MINE"} <= set(found)
    assert {"SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SBATCH_EXPORT"} & set(found) == set()
