"""What is asked of SLURM, and the batch file that says it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fairtune.config.durations import duration
from fairtune.study.launch.crew import ERROR, REQUEUE, Crew

DEATHS = 3
"""How often a job is started again whose worker died, rather than was told to leave."""

LOG = "%A_%a.log"


@dataclass(frozen=True)
class Request:
    """One array of jobs.

    Attributes:
        workers: Jobs of the array.
        parallel: How many of them run at once.
        minutes: Limit of a job.
        options: Other options of sbatch with a value, by name.
        extra: Further ones, as the user wrote them; they have the last word.
        setup: Shell lines before the worker.
        warning: Seconds before the end of its time at which a job is told to leave.
        requeues: How often a job may go back into the queue.
        budget: Seconds after which a worker leaves by itself, should the signal not come.
    """

    workers: int
    parallel: int
    minutes: int
    options: Mapping[str, str]
    extra: Sequence[str]
    setup: Sequence[str]
    warning: int
    requeues: int
    budget: float

    def crew(self, crew: Crew) -> Crew:
        """Return `crew` with the time that its workers have."""
        mine = f"--time-budget={duration(self.budget)}"
        return replace(crew, options=[*crew.options, mine])

    def added(self) -> dict[str, str | None]:
        """Return the options that the user has written out, by name; None: one without value."""
        words = [word.removeprefix("--").partition("=") for word in self.extra]
        return {name: value if given else None for name, given, value in words}


def directives(request: Request, folder: Path) -> dict[str, str | None]:
    """Return every option of sbatch by its name; None for one without a value."""
    return {
        **request.options,
        "array": f"0-{request.workers - 1}%{request.parallel}",
        "time": str(request.minutes),
        "output": str(folder / LOG),
        "open-mode": "append",
        "requeue": None,
        "signal": f"B:USR1@{request.warning}",
        "export": "ALL",
        **request.added(),
    }


def script(request: Request, crew: Crew) -> str:
    """Return a batch file that needs nothing but the interpreter.

    The warning goes to the shell alone, which tells the worker; so do scancel and preemption. The
    worker is no step of srun: its signals would end it, and its environment may be another.
    """
    given = directives(request, crew.folder)
    lines = ["#!/bin/bash", *(_directive(name, value) for name, value in given.items()), ""]
    lines += [*request.setup, ""] if request.setup else []
    mine = request.crew(crew)
    lines += [
        f"{mine.shown(SLOT)} &",
        *_TAIL.format(
            error=ERROR,
            requeue=REQUEUE,
            requeues=request.requeues,
            deaths=min(DEATHS, request.requeues),
        ).splitlines(),
    ]
    return "\n".join(lines)


SLOT = "$SLURM_ARRAY_TASK_ID"
_TAIL = """\
worker=$!
told=
trap 'kill -USR1 $worker' USR1
trap 'told=yes; kill -TERM $worker' TERM
# A signal ends `wait`, and not the worker.
while wait $worker; kill -0 $worker 2>/dev/null; do :; done
wait $worker
code=$?

# Told to leave before the work was done: back into the queue. One that died may do so a few times.
case $code in
    0|{error}) most=0 ;;
    {requeue}) most={requeues} ;;
    *) most={deaths} ;;
esac
if [ -z "$told" ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt "$most" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code"""


def _directive(name: str, value: str | None) -> str:
    return f"#SBATCH --{name}" if value is None else f"#SBATCH --{name}={shlex.quote(value)}"
