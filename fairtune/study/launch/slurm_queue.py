"""What SLURM's own commands say; none of them may block for long."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairtune.errors import StudyError
from fairtune.study.launch.crew import Crew

PATIENCE = 60.0
"""Seconds for which a command of SLURM may take; with no controller it would ask for ever."""

UNKNOWN = "UNKNOWN"
WAITING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED"})
GOING = frozenset(
    {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}
)
_JOB = re.compile(r"\bjob (?P<id>\d+)")


@dataclass(frozen=True)
class Job:
    """A submitted array.

    Attributes:
        id: Of the array.
        log: Path of the log of a task; `{task}` stands for its name, e.g. `17_0`.
    """

    id: str
    log: str

    def log_of(self, task: str) -> Path:
        """Return the log of a task."""
        return Path(self.log.format(task=task))


@dataclass(frozen=True)
class Task:
    """One job of an array.

    Attributes:
        state: In SLURM's words, e.g. `PENDING`.
        reason: Why it waits, or ended.
    """

    state: str
    reason: str

    @property
    def ended(self) -> bool:
        """Whether it will do nothing more."""
        return self.state not in WAITING and self.state not in GOING


def environment(crew: Crew) -> dict[str, str]:
    """Return the environment that SLURM hands to the jobs; the storage's password is in it.

    What a job around this process has left there (`SLURM_CPUS_PER_TASK` and its kind) would be
    taken for the new jobs' own.
    """
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    own = {
        name: text
        for name, text in os.environ.items()
        if name in kept or not name.startswith(("SLURM_", "SRUN_", "SBATCH_EXPORT"))
    }
    return {**own, **crew.environment()}


def ask(words: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """Return what a command of SLURM prints.

    Raises:
        StudyError: It is not there, does not answer, or refuses.
    """
    shown = " ".join(words[:1])
    try:
        done = subprocess.run(
            words,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except FileNotFoundError:
        raise StudyError(
            "there is no SLURM here",
            where=shown,
            todo="give the command on a machine from which jobs are submitted",
        ) from None
    except subprocess.TimeoutExpired:
        raise StudyError(
            f"SLURM has not answered within {PATIENCE:.0f} s",
            where=shown,
            todo="ask `scontrol ping` whether its controller is there",
        ) from None
    if done.returncode != 0:
        raise refusal(shown, done.stderr or done.stdout)
    return done.stdout


def refusal(command: str, said: str) -> StudyError:
    """Return the error of a command that SLURM refused."""
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()]
    return StudyError(
        "SLURM refused",
        where=command,
        found="\n".join(lines[-4:]),
        todo="mend that with --with, e.g. --with partition=NAME --with account=NAME",
    )


def submitted(said: str) -> str:
    """Return the id of the job that sbatch speaks of.

    Raises:
        StudyError: It speaks of none.
    """
    found = _JOB.search(said)
    if found is None:
        raise refusal("sbatch", said)
    return found["id"]


def tasks(job: str) -> dict[str, Task]:
    """Return the tasks of an array that SLURM knows; it forgets those that ended minutes ago.

    `squeue` is asked, and never `sacct`, which many clusters have not.

    Raises:
        StudyError: SLURM does not answer.
    """
    words = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={job}"]
    try:
        said = ask([*words, "--format=%i|%T|%r"])
    except StudyError as error:
        if "Invalid job id" in str(error.found):
            return {}
        raise
    found = {}
    for line in said.splitlines():
        name, state, reason = line.strip().split("|", 2)
        found[name] = Task(state, reason)
    return found
