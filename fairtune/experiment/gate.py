"""The test split is opened here and nowhere else, and every opening is written down first."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from fairtune import store
from fairtune.data.gatekeep import TestPass, issue

LEDGER = "test-openings.jsonl"


@dataclass(frozen=True)
class Opening:
    """One opening of a test split.

    Attributes:
        when: UTC time, ISO 8601.
        command: The command that asked.
        split: Digest of the split that was opened.
        digests: Recipes that were to be tested in it.
        study: Name of the study, if any.
    """

    when: str
    command: str
    split: str
    digests: tuple[str, ...]
    study: str | None = None


@dataclass(frozen=True)
class Gate:
    """The ledger of openings beside the results.

    Attributes:
        out: Results folder.
        record: Also told of every opening before the pass is made, e.g. the study's final phase.
    """

    out: Path
    record: Callable[[Opening], None] | None = None

    def open(
        self, split: str, digests: Sequence[str], *, command: str, study: str | None = None
    ) -> TestPass:
        """Write the opening down and return the pass to the test rows of `split`.

        Raises:
            StorageError: The opening could not be written; then nothing is opened.
        """
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        opening = Opening(when, command, split, tuple(digests), study)
        if self.record is not None:
            self.record(opening)
        line = json.dumps(asdict(opening), ensure_ascii=False) + "\n"
        with store.writing(self.out, what=LEDGER):
            self.out.mkdir(parents=True, exist_ok=True)
            with (self.out / LEDGER).open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        return issue(split, f"{when} {command}")

    def openings(self, split: str) -> list[Opening]:
        """Return all openings of `split` from this results folder, oldest first."""
        path = self.out / LEDGER
        if not path.is_file():
            return []
        found = []
        for line in path.read_text(encoding="utf-8").splitlines():
            data = json.loads(line)
            if data["split"] == split:
                found.append(Opening(**{**data, "digests": tuple(data["digests"])}))
        return found
