"""Where a study keeps its things."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fairtune.errors import StudyError
from fairtune.experiment.runs import Runs
from fairtune.store import write_atomic
from fairtune.study.storages import is_missing
from fairtune.study.storages.address import HIDDEN, absolute, redact

PINS = "plan"
"""Study attribute with what a reader needs beside the identity: units, budget, confirm, select."""

ENDED = "search_ended"
"""One of these settings: why the search starts no further trial, once that is so."""

MOST_TRIALS = "most_trials"
"""Study attribute: the largest `budget.trials` it was started with; a later one may be smaller."""

LOCAL = "local"
"""Storage that is a PostgreSQL of fairtune's own, in the results folder."""

DATABASE, REMEMBERED = "study.db", "storage.json"


@dataclass(frozen=True)
class Place:
    """Results folder, name and storage of a study.

    Attributes:
        out: Results folder.
        name: Name of the study.
        storage: Storage URL or `local`; None for where the study was made, as its folder
            remembers, or else SQLite beside the results.
        shared: URL of the runs that machines share, or None where each has its own.
    """

    out: Path
    name: str
    storage: str | None = None
    shared: str | None = None

    @property
    def folder(self) -> Path:
        """Folder of this study's own files."""
        return self.out / self.name

    @property
    def url(self) -> str:
        """Storage URL.

        Raises:
            StudyError: The study lies in a database whose password is not known here.
        """
        storage = self.storage or self.remembered
        if storage is None:
            return self.beside
        if HIDDEN in storage and self.storage is None:
            raise StudyError(
                "the study lies in a database, and its password is not stored",
                where=f"study '{self.name}'",
                found=storage,
                todo="give the whole URL as --storage or FAIRTUNE_STORAGE",
            )
        return f"local:{(self.out / 'postgres').resolve()}" if storage == LOCAL else storage

    @property
    def beside(self) -> str:
        """URL of SQLite beside the results."""
        return f"sqlite:///{(self.folder / DATABASE).resolve()}"

    @property
    def remembered(self) -> str | None:
        """Storage in which the study was made, its password hidden; None for SQLite beside it.

        Raises:
            StudyError: What the folder remembers cannot be read.
        """
        file = self.folder / REMEMBERED
        try:
            storage = json.loads(file.read_text())["storage"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StudyError(
                "it cannot be read where the study lies",
                where=file,
                found=str(error),
                todo="give --storage, or remove the file if the study lies in SQLite beside it",
            ) from None
        return str(storage)

    @property
    def is_missing(self) -> bool:
        """Whether there can be no study: the file it would lie in is not there."""
        return is_missing(self.url)

    def remember(self) -> None:
        """Write down where the study lies, for commands without --storage; never a password."""
        shown = None if self.storage is None else redact(absolute(self.storage))
        if shown not in (None, self.beside, self.remembered):
            self.folder.mkdir(parents=True, exist_ok=True)
            content = json.dumps({"storage": shown}) + "\n"
            write_atomic(self.folder / REMEMBERED, content.encode())

    @property
    def runs(self) -> Runs:
        """Where runs are stored."""
        return Runs.at(self.out, self.shared)


def studies_in(out: Path) -> list[str]:
    """Return the names of the studies whose folder in `out` tells where they lie."""
    found = [path for name in (DATABASE, REMEMBERED) for path in out.glob(f"*/{name}")]
    return sorted({path.parent.name for path in found})
