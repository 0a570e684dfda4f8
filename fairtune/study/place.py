"""Where a study keeps its things."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fairtune.experiment.runs import Runs

PINS = "plan"
"""Study attribute with what a reader needs beside the identity: units, budget, confirm, select."""

ENDED = "search_ended"
"""One of these settings: why the search starts no further trial, once that is so."""


@dataclass(frozen=True)
class Place:
    """Results folder, name and storage of a study.

    Attributes:
        out: Results folder.
        name: Name of the study.
        storage: Storage URL, or None for SQLite beside the results.
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
        """Storage URL."""
        return self.storage or f"sqlite:///{(self.folder / 'study.db').resolve()}"

    @property
    def runs(self) -> Runs:
        """Where runs are stored."""
        return Runs.at(self.out, self.shared)
