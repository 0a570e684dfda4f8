"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fairtune.config import Settings
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
Log = Annotated[
    list[str] | None,
    typer.Option("--log", help="Also tell mlflow or tensorboard of runs; several times."),
]
Words = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace a field, e.g. recipe.optim.epochs=4; several times."),
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


def place_of(name: str, out: Path | None, storage: str | None) -> Place:
    """Return where the study `name` keeps its things."""
    from fairtune.config import settings
    from fairtune.study.place import Place

    env: Settings = settings()
    return Place(out or env.out, name, storage or env.storage)
