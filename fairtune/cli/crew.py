"""`fairtune search` with workers: what was asked for, and how it is carried out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from fairtune.config.settings import launched
from fairtune.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from fairtune.study.launch import Launcher
    from fairtune.study.place import Place
    from fairtune.study.plan import Plan
    from fairtune.study.schema import StudyFile
    from fairtune.study.worker import StopFlag
    from fairtune.training.session import Session

LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Asked:
    """Workers that were asked for.

    Attributes:
        launcher: It, with its settings.
        workers: How many; None: as many as the accelerators of this machine take.
        per_device: Workers that share an accelerator.
        processes: Accelerators that share every run.
    """

    launcher: Launcher
    workers: int | None
    per_device: int
    processes: int

    @classmethod
    def of(
        cls,
        launcher: str | None,
        settings: Sequence[str] | None,
        workers: int | None,
        per_device: int,
        processes: int,
    ) -> Asked | None:
        """Return what was asked for; None where this process is the one worker.

        Raises:
            ConfigError: No such launcher, it has no such setting, or torchrun has started this.
        """
        several = (workers or 1) > 1 or per_device > 1 or processes > 1
        if launcher is None and not several:
            if settings:
                raise ConfigError(
                    "a setting of a launcher, and there is none",
                    where="--with",
                    found=settings[0],
                    todo="give --launcher",
                )
            return None
        if launched()[0] > 1:
            raise ConfigError(
                "workers are not started by a process that torchrun has started",
                where="--workers, --workers-per-gpu, --gpus-per-run, --launcher",
                found=f"{launched()[0]} processes",
                todo="start the command without torchrun; --gpus-per-run lets every worker have "
                "several processes",
            )
        from fairtune.config.overrides import split
        from fairtune.study.launch import LAUNCHERS

        fields = {}
        for word in settings or ():
            path, value = split(word, "--with")
            fields[".".join(path)] = value
        name = launcher or "local"
        made = LAUNCHERS.parse({name: fields} if fields else name)
        return cls(made, workers, per_device, processes)  # type: ignore[arg-type]

    def place(self, place: Place) -> Place:
        """Return `place` with a storage that all workers reach.

        Raises:
            ConfigError: There is none that workers on other machines reach.
        """
        from fairtune.study.storages.address import is_of_a_machine, redact

        lies = place.storage or place.remembered
        if lies is None and not self.launcher.elsewhere:
            return replace(place, storage="local")
        if self.launcher.elsewhere and (lies is None or is_of_a_machine(lies)):
            raise ConfigError(
                "workers on other machines cannot reach a storage of this machine",
                where="--storage",
                found=None if lies is None else redact(lies),
                allowed="postgresql://USER@HOST/DATABASE, mysql://..., grpc://HOST:PORT",
                todo="give --storage, or set FAIRTUNE_STORAGE",
            )
        return place

    def check_precision(self, file: StudyFile, session: Session, *, created: bool) -> None:
        """Refuse to measure the precision of a study on a machine that does not train it.

        Raises:
            ConfigError: The study file leaves it open.
        """
        if not self.launcher.elsewhere or created or session.device.type != "cpu":
            return
        if file.recipe.fit.precision == "auto":
            raise ConfigError(
                "the precision would be measured here, where there is no accelerator",
                where="recipe.fit.precision",
                found="auto",
                allowed="bf16, fp32, tf32",
                todo="say what the workers' machines are to use, e.g. --set "
                "recipe.fit.precision=bf16",
            )


def launch(
    asked: Asked,
    plan: Plan,
    session: Session,
    place: Place,
    options: Sequence[str],
    *,
    force: bool,
) -> None:
    """Make the study and start its workers; with a launcher of this machine, wait for them."""
    from fairtune.cli.live import stopping
    from fairtune.cli.work import leave
    from fairtune.study.bill import bill
    from fairtune.study.code import check_code
    from fairtune.study.follow import state_of
    from fairtune.study.launch import Crew
    from fairtune.study.launch.crew import INTERRUPTED
    from fairtune.study.opening import open_study
    from fairtune.study.overview import Overview
    from fairtune.study.status import summary
    from fairtune.study.storages.address import absolute
    from fairtune.study.worker import Exit, StopFlag
    from fairtune.training.devices import accelerators

    devices = accelerators(session.device)
    groups = max(1, len(devices) // asked.processes)
    workers = asked.workers or groups * asked.per_device
    _check_many(place, workers)
    stop = StopFlag()
    with open_study(place, plan, create=True) as ledger, stopping(stop):
        print(f"study {plan.study.name}: {ledger.url}")
        print(bill(plan))
        for line in check_code(ledger, force=force):
            print(line)
        crew = Crew(
            plan.study.name,
            absolute(place.url),
            place.folder.resolve() / "workers",
            workers=workers,
            options=[*options, f"--out={place.out.resolve()}", *(["--force"] if force else [])],
            processes=asked.processes,
            per_device=asked.per_device,
            devices=devices,
        )
        with _looking(place, stop) as look:
            ended = asked.launcher.launch(crew, stop, print, look)
    if not ended:
        print(f"next: fairtune watch {plan.study.name}")
        leave(Exit.STOPPED if stop.reason() else Exit.DONE, stop, "the workers go on")
        return
    then = "the same command goes on from here"
    leave(Exit.STOPPED if stop.reason() else Exit.DONE, stop, then)
    print(summary(place))
    if not state_of(Overview.load(place)).finished:
        print(f"every worker has left, the study is not finished; {then}")
        raise typer.Exit(INTERRUPTED)


def _check_many(place: Place, workers: int) -> None:
    """Refuse several workers on a storage that takes one, before anything is made.

    Raises:
        ConfigError: It is SQLite.
    """
    from fairtune.study.storages import normalise, redact

    if workers > 1 and normalise(place.url).startswith("sqlite"):
        raise ConfigError(
            "SQLite takes one worker: it locks the whole file for each write, so that workers "
            "would wait for each other and fail",
            where="--storage",
            found=redact(place.url),
            allowed="local, postgresql://..., mysql://..., grpc://..., journal:PATH",
            todo="leave --storage out, or move a study that has begun with `fairtune merge`",
        )


@contextlib.contextmanager
def _looking(place: Place, stop: StopFlag) -> Iterator[Callable[[], None]]:
    """Give what shows where the study stands, at most every few seconds, by one connection.

    A storage that does not answer is said and asked again: the workers know how to wait for it.
    """
    from fairtune.cli.watch import View, lines
    from fairtune.study.follow import state_of
    from fairtune.study.ledger import Ledger, Options
    from fairtune.study.overview import Overview

    last, view = -LOOK_SECONDS, View()
    brief = Options(patience=LOOK_SECONDS, leaving=stop.reason)
    with Ledger.open(place.url, place.name, options=brief) as ledger:

        def look() -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= LOOK_SECONDS:
                last = now
                try:
                    text = "\n".join(lines(state_of(Overview.read(ledger, place))))
                except StorageError as error:
                    text = str(error)
                view(text)

        yield look
