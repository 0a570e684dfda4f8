"""Handing an array of workers to SLURM."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from fairtune.errors import StorageError, StudyError
from fairtune.study.launch import slurm_keeper
from fairtune.study.launch.crew import ERROR, REQUEUE, Crew
from fairtune.study.launch.slurm_queue import Job, ask, environment, refusal, submitted
from fairtune.study.launch.slurm_script import DEATHS, Request, script

# A warning that comes before submitit listens would end the job for good.
_UNWARNED = """bash -c 'trap "" USR1; exec "$0" "$@"' """


def submit_script(request: Request, crew: Crew) -> Job:
    """Submit a plain batch file.

    Raises:
        StudyError: SLURM is not there, does not answer, or refuses.
        StorageError: The file cannot be written.
    """
    ask(["sinfo", "--version"])
    path = crew.folder / "workers.sbatch"
    try:
        crew.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(script(request, crew) + "\n")
    except OSError as error:
        raise StorageError(
            "cannot write the batch file", where=path, found=error.strerror
        ) from None
    job = submitted(ask(["sbatch", str(path)], environment(crew)))
    return Job(job, str(crew.folder / "{task}.log"))


def submit_pickled(request: Request, crew: Crew) -> Job:
    """Submit the jobs through submitit.

    Raises:
        StudyError: submitit is not installed; SLURM is not there, does not answer, or refuses.
        StorageError: Its files cannot be written.
    """
    try:
        import cloudpickle
        import submitit
        from submitit.core.utils import FailedSubmissionError, UncompletedJobError
    except ImportError:
        raise StudyError(
            "submitit is not installed",
            where="--launcher slurm",
            todo="pip install 'fairtune[slurm]', or give --with through=sbatch, which needs "
            "nothing",
        ) from None
    # submitit waits for sbatch without end; so SLURM is asked first whether it is there.
    ask(["srun", "--version"])
    ask(["scontrol", "ping"])
    mine, folder = request.crew(crew), crew.folder
    keeper = slurm_keeper.Keeper(REQUEUE, ERROR, min(DEATHS, request.requeues))
    cloudpickle.register_pickle_by_value(slurm_keeper)
    try:
        with _surroundings(environment(crew)):
            executor = submitit.SlurmExecutor(
                folder,
                max_num_timeout=request.requeues,
                python=_UNWARNED + shlex.quote(sys.executable),
            )
            executor.update_parameters(**_parameters(request))
            commands = [mine.command(slot) for slot in range(crew.workers)]
            jobs = executor.map_array(keeper, commands)
    except OSError as error:
        raise StorageError(
            "cannot write the files of the jobs", where=folder, found=error.strerror
        ) from None
    except (UncompletedJobError, FailedSubmissionError) as error:
        raise refusal("sbatch", str(error)) from None
    finally:
        cloudpickle.unregister_pickle_by_value(slurm_keeper)
    return Job(jobs[0].job_id.partition("_")[0], str(folder / "{task}_0_log.out"))


def _parameters(request: Request) -> dict[str, Any]:
    """Return what submitit is told: its own names where it has one, the rest word for word."""
    added = {
        **request.options,
        "requeue": None,
        "export": "ALL",
        # Of all signals it must be one that the worker knows: some clusters send it to every
        # process of the job.
        "signal": f"USR1@{request.warning}",
        **request.added(),
    }
    cpus = request.options.get("cpus-per-task")
    return {
        "time": request.minutes,
        "signal_delay_s": request.warning,
        "array_parallelism": request.parallel,
        "stderr_to_stdout": True,
        "setup": ["export SUBMITIT_PREEMPT_SIGNAL=USR1", *request.setup],
        # srun takes neither from sbatch, since SLURM 22.05 and where the user's export is another.
        "srun_args": ["--export=ALL", *([f"--cpus-per-task={cpus}"] if cpus else [])],
        "additional_parameters": {
            name.replace("-", "_"): True if value is None else value
            for name, value in added.items()
        },
    }


@contextlib.contextmanager
def _surroundings(wanted: Mapping[str, str]) -> Iterator[None]:
    """Put `wanted` in the place of this process's environment: submitit hands that to sbatch."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)
