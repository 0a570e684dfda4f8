"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fairtune.config import Settings
    from fairtune.experiment.runs import Runs
    from fairtune.study.place import Place
    from fairtune.training.session import Session

Out = Annotated[
    Path | None, typer.Option("--out", help="Results folder (default: FAIRTUNE_OUT or results).")
]
DataRoot = Annotated[
    list[Path] | None,
    typer.Option("--data-root", help="Folder searched for data sets; may be given several times."),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Storage URL, or local (default: where the study lies, or SQLite beside it).",
    ),
]
RunsAt = Annotated[
    str | None,
    typer.Option(
        "--runs",
        metavar="URL",
        help="Where machines share finished runs, e.g. s3://BUCKET/PREFIX (default: "
        "FAIRTUNE_RUNS; without it they are below --out alone).",
    ),
]
Log = Annotated[
    list[str] | None,
    typer.Option("--log", help="Also tell mlflow or tensorboard of runs; several times."),
]
Words = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace a field, e.g. recipe.optim.epochs=4; several times."),
]

PerRun = Annotated[
    int,
    typer.Option(
        "--gpus-per-run", min=1, help="Accelerators that share every run, a process each."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes that share the trials (default: 1)."),
]
PerGpu = Annotated[
    int, typer.Option("--workers-per-gpu", min=1, help="Workers that share an accelerator.")
]
Launch = Annotated[
    str | None,
    typer.Option(
        "--launcher",
        metavar="local|slurm|ray|print",
        help="What starts the workers (default: local, or this process for one).",
    ),
]
With = Annotated[
    list[str] | None,
    typer.Option("--with", help="A setting of the launcher, e.g. partition=gpu; several times."),
]
Together = Annotated[
    int, typer.Option("--together", min=1, help="Runs made at once in a process, sharing data.")
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Take part with other code than the study's; it is recorded."),
]


def this_command() -> str:
    """Return the command line for the ledger of openings, with every password hidden."""
    import shlex
    import sys

    from fairtune.study.storages import redact

    return redact(shlex.join(["fairtune", *sys.argv[1:]]))


def make_folder(folder: Path, option: str) -> None:
    """Make a folder that is to be written to, before any work is done.

    Raises:
        ConfigError: It cannot be made.
    """
    from fairtune.errors import ConfigError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "cannot make the folder", where=option, found=f"{folder}: {error.strerror}"
        ) from None


def check_target(path: Path, option: str) -> None:
    """Make the folder of a file that is to be written, before any work is done.

    Raises:
        ConfigError: It cannot be made, or `path` is a folder itself.
    """
    from fairtune.errors import ConfigError

    if path.is_dir():
        raise ConfigError(
            "this is a folder, and a file is to be written", where=option, found=path
        )
    make_folder(path.parent, option)


def out_folder(out: Path | None) -> Path:
    """Return the results folder."""
    from fairtune.config import settings

    return settings().out if out is None else out


def open_session(data_root: list[Path] | None, *, keeps_best: bool = False) -> Session:
    """Return the session of this process."""
    from fairtune.cli.live import packing
    from fairtune.config import settings
    from fairtune.training.session import Session

    return Session(settings(), tuple(data_root or ()), keeps_best, packing)


def shared_at(runs: str | None) -> str | None:
    """Return where machines share finished runs, or None.

    Raises:
        ConfigError: It is no URL of a folder, holds credentials, or its package is missing.
    """
    from fairtune.config import settings
    from fairtune.remote import Remote

    url = runs or settings().runs
    return None if url is None else Remote.at(url).url


def runs_of(out: Path | None, runs: str | None) -> Runs:
    """Return the runs below the results folder, and those that machines share with it."""
    from fairtune.experiment.runs import Runs

    return Runs.at(out_folder(out), shared_at(runs))


def place_of(name: str, out: Path | None, storage: str | None, runs: str | None = None) -> Place:
    """Return where the study `name` keeps its things."""
    from fairtune.config import settings
    from fairtune.study.place import Place

    env: Settings = settings()
    return Place(out or env.out, name, storage or env.storage, shared_at(runs))
