"""Workers as one array of SLURM jobs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from fairtune.config import Config
from fairtune.config.durations import seconds_of
from fairtune.errors import ConfigError
from fairtune.study.launch import LAUNCHERS, Crew
from fairtune.study.launch.slurm_script import Request, script
from fairtune.study.launch.slurm_submit import submit_pickled, submit_script
from fairtune.study.launch.slurm_wait import Array
from fairtune.study.worker import Stop


def _lines(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _text(value: Any) -> Any:
    # YAML reads an account `1234` and a memory `64000` as numbers.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Lines = Annotated[tuple[str, ...], BeforeValidator(_lines)]
Text = Annotated[str | None, BeforeValidator(_text)]


@LAUNCHERS.register("slurm")
class Slurm(Config):
    """Submits the workers as an array of identical jobs, which need nobody to look after them.

    A job whose time is nearly over, or that is preempted, keeps the state of its run and goes back
    into the queue; one whose worker finds the work done ends.

    Attributes:
        through: `submitit`: with its pickled callable. `sbatch`: with a plain batch file, for
            clusters that forbid the former. `print`: show that file, and submit nothing.
        partition: Of the cluster.
        account: That is charged.
        qos: Quality of service.
        time: Limit of a job, e.g. `4h`; its worker leaves `signal` seconds before.
        gpus: Accelerators of a worker; by default those that share a run, which is one.
        gres: Other generic resources, e.g. `gpu:a100:1`; then `gpus` is not asked for.
        cpus: Cores of a worker.
        mem: Memory of a worker, e.g. `32G`.
        constraint: Features that a node has to have.
        exclude: Nodes that are not wanted.
        nodelist: Nodes that are wanted.
        parallel: Jobs of the array that run at once; by default all.
        setup: Shell lines before the worker, e.g. `module load cuda`.
        signal: Seconds before the end at which a job is told to leave.
        requeues: How often a job may go back into the queue at the end of its time.
        extra: Further options of sbatch, word for word, e.g. `--mail-type=END`.
        wait: Stay until the last job has ended, showing where the study stands.
    """

    elsewhere: ClassVar[bool] = True

    through: Literal["submitit", "sbatch", "print"] = "submitit"
    partition: Text = None
    account: Text = None
    qos: Text = None
    time: str = "4h"
    gpus: int | None = Field(default=None, ge=0)
    gres: Text = None
    cpus: int | None = Field(default=None, ge=1)
    mem: Text = None
    constraint: Text = None
    exclude: Text = None
    nodelist: Text = None
    parallel: int | None = Field(default=None, ge=1)
    setup: Lines = ()
    signal: int = Field(default=180, ge=10)
    requeues: int = Field(default=20, ge=0)
    extra: Lines = ()
    wait: bool = False

    @model_validator(mode="after")
    def _check(self) -> Slurm:
        if seconds_of(self.time, "time") <= self.signal:
            raise ConfigError(
                "the jobs would be told to leave as they start",
                where="signal",
                found=self.signal,
                allowed=f"seconds, fewer than those of time={self.time}",
            )
        wrong = [option for option in self.extra if not option.startswith("--")]
        if wrong:
            raise ConfigError(
                "not an option of sbatch",
                where="extra",
                found=wrong[0],
                allowed="--NAME or --NAME=VALUE",
            )
        return self

    def request(self, crew: Crew) -> Request:
        """Return what is asked of SLURM for `crew`.

        Raises:
            ConfigError: Workers are to share a device, or have fewer than they share a run on.
        """
        if crew.per_device > 1:
            raise ConfigError(
                "SLURM gives an accelerator to one job",
                where="--workers-per-gpu",
                found=crew.per_device,
                todo="give --together, for several runs at once in each worker",
            )
        gpus = crew.processes if self.gpus is None and self.gres is None else self.gpus or 0
        if 0 < gpus < crew.processes:
            raise ConfigError(
                "fewer accelerators than share a run",
                where="gpus",
                found=gpus,
                allowed=f"at least {crew.processes}, as --gpus-per-run says",
            )
        seconds = seconds_of(self.time, "time")
        return Request(
            crew.workers,
            min(self.parallel or crew.workers, crew.workers),
            math.ceil(seconds / 60),
            {"job-name": f"fairtune-{crew.study}", **self._options(gpus)},
            extra=self.extra,
            setup=self.setup,
            warning=self.signal,
            requeues=self.requeues,
            budget=seconds - self.signal,
        )

    def _options(self, gpus: int) -> dict[str, str]:
        named = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "nodes": 1,
            "ntasks": 1,
            "gpus-per-node": gpus or None,
            "gres": self.gres,
            "cpus-per-task": self.cpus,
            "mem": self.mem,
            "constraint": self.constraint,
            "exclude": self.exclude,
            "nodelist": self.nodelist,
        }
        return {name: str(value) for name, value in named.items() if value is not None}

    def launch(
        self,
        crew: Crew,
        stop: Stop,
        tell: Callable[[str], None],
        look: Callable[[], None],
    ) -> bool:
        """Submit the workers; with `wait`, return when the last has ended."""
        request = self.request(crew)
        if self.through == "print":
            tell(f"# in the environment of sbatch, for {crew.shown_storage}:")
            tell("# export FAIRTUNE_STORAGE=...")
            tell(script(request, crew))
            return False
        submit = submit_pickled if self.through == "submitit" else submit_script
        array = Array(submit(request, crew))
        tell(array.in_queue())
        tell(f"logs in {crew.folder}, which every node has to reach")
        tell(f"cancel: scancel {array.job.id}")
        return array.follow(stop, tell, look) if self.wait else False
