"""States of a run where other machines find them, beside those on this machine's disk.

A state is put after it was written here, so what a mirror cannot take costs nothing but time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fairtune import store
from fairtune.errors import FairtuneError

log = logging.getLogger(__name__)

STATE, LOG = "state.json", "log.jsonl"

Record = Mapping[str, Any]


class Mirror(Protocol):
    """Keeps files of attempts at one run; every method may raise a `StorageError`.

    An attempt is called `<n>-<id>`: its number among those that it knows of, and its own id, as
    two machines may make the same attempt unknown to each other.
    """

    def states(self) -> dict[str, bytes]:
        """Return the state file of every attempt that has one, by the attempt's name."""

    def get(self, attempt: str, names: Sequence[str], into: Path) -> bool:
        """Copy files of an attempt to the folder `into`; return False when one is missing."""

    def put(self, attempt: str, files: Sequence[Path]) -> None:
        """Put the files of an attempt in their order, and remove what they take the place of."""

    def discard(self) -> None:
        """Remove every attempt."""


def progress(record: Record) -> int:
    """Return how far a state is, to be compared with others of the same run."""
    return int(record["epoch"])


def put(mirror: Mirror, attempt: str, folder: Path) -> None:
    """Put what the attempt in `folder` holds, its state last; a failure is a warning."""
    files = [*sorted(folder.glob("*.safetensors")), folder / LOG, folder / STATE]
    try:
        mirror.put(attempt, [file for file in files if file.is_file()])
    except (OSError, FairtuneError) as error:
        log.warning("the state of the run is kept on this machine alone: %s", error)


def fetch(mirror: Mirror, folder: Path, ahead_of: int, fits: Callable[[Record], bool]) -> bool:
    """Bring the furthest state to the folder `folder`; return False where there is none.

    Args:
        mirror: Where states of other machines are.
        folder: Folder of an attempt without a state.
        ahead_of: Progress that a state must be ahead of to be of use.
        fits: Tells whether a state is of this run.
    """
    try:
        found = {name: (_record(content), content) for name, content in mirror.states().items()}
        known = {n: (record, c) for n, (record, c) in found.items() if record and fits(record)}
        for name in sorted(known, key=lambda n: progress(known[n][0]), reverse=True):
            record, content = known[name]
            if progress(record) <= ahead_of:
                return False
            folder.mkdir(parents=True, exist_ok=True)
            if mirror.get(name, [Path(record["file"]).name], folder):
                if not (folder / LOG).exists():
                    mirror.get(name, [LOG], folder)
                store.write_atomic(folder / STATE, content)
                return True
    except (OSError, FairtuneError) as error:
        log.warning("states that other machines left cannot be read: %s", error)
    return False


def discard(mirror: Mirror) -> None:
    """Remove every attempt; a failure is a warning."""
    try:
        mirror.discard()
    except (OSError, FairtuneError) as error:
        log.warning("states of an ended run stay where other machines find them: %s", error)


def _record(content: bytes) -> Record | None:
    try:
        record = json.loads(content)
        progress(record), record["file"]
    except (ValueError, TypeError, KeyError):
        return None
    return dict(record)
