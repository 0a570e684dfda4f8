"""The test split is opened here and nowhere else, and every opening is written down first."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Opening:
        """Return the opening that was written as `data`."""
        return cls(**{**data, "digests": tuple(data["digests"])})


@dataclass(frozen=True)
class Gate:
    """The ledger of openings beside the results.

    Attributes:
        out: Results folder.
        record: Also told of every opening before the pass is made, e.g. the study's final phase.
        recorded: Returns what `record` was told, on this machine or on others.
    """

    out: Path
    record: Callable[[Opening], None] | None = None
    recorded: Callable[[], Sequence[Opening]] = tuple

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
        """Return all openings of `split` from this results folder or recorded, oldest first."""
        path = self.out / LEDGER
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        found = [Opening.of(json.loads(line)) for line in lines]
        found += [opening for opening in self.recorded() if opening not in found]
        return sorted((o for o in found if o.split == split), key=lambda o: o.when)
