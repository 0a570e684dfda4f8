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

NOWHERE = (-1, 0)
"""Progress of an attempt without a state."""


class Mirror(Protocol):
    """Keeps files of attempts at one run; every method may raise a `StorageError`.

    An attempt is called `<n>-<id>`: its number among those that it knows of, and its own id, as
    two machines may make the same attempt unknown to each other.
    """

    def attempts(self) -> dict[str, set[str]]:
        """Return the names of the files of every attempt, by the attempt's name."""

    def read(self, attempt: str, name: str) -> bytes | None:
        """Return the content of a file of an attempt, or None when there is none."""

    def get(self, attempt: str, names: Sequence[str], into: Path) -> bool:
        """Copy files of an attempt to the folder `into`; return False when one is missing."""

    def put(self, attempt: str, files: Sequence[Path]) -> None:
        """Put the files of an attempt in their order, and remove what they take the place of.

        That is what else the attempt left, and what those before it did, except their logs.
        """

    def discard(self) -> None:
        """Remove every attempt."""


def number_of(attempt: str) -> int:
    """Return the number in the name of an attempt."""
    return int(attempt.split("-", 1)[0])


def progress(record: Record) -> tuple[int, int]:
    """Return finished epochs and steps made, to be compared with others of the same run."""
    return int(record["epoch"]), int(record.get("step", 0))


def put(mirror: Mirror, attempt: str, folder: Path) -> None:
    """Put what the attempt in `folder` holds, its state last; a failure is a warning."""
    files = [*sorted(folder.glob("*.safetensors")), folder / LOG, folder / STATE]
    try:
        mirror.put(attempt, [file for file in files if file.is_file()])
    except (OSError, FairtuneError) as error:
        log.warning("the state of the run is kept on this machine alone: %s", error)


def fetch(
    mirror: Mirror,
    folder: Path,
    least: int,
    own: Path | None,
    ahead_of: tuple[int, int],
    fits: Callable[[Record], bool],
) -> bool:
    """Bring the furthest state of other machines here; return False where none is of use.

    Args:
        mirror: Where states of other machines are.
        folder: Folder of the attempts of this machine.
        least: Least number of a new attempt in it.
        own: Folder of the attempt that asks, where it has one: the state then goes there.
        ahead_of: Progress that a state must be ahead of to be of use.
        fits: Tells whether a state is of this run.
    """
    try:
        names = mirror.attempts()
        for attempt, record, content in _furthest(mirror, names, fits):
            if progress(record) <= ahead_of:
                return False
            into = own or folder / str(max(least, number_of(attempt)))
            into.mkdir(parents=True, exist_ok=True)
            if mirror.get(attempt, [Path(record["file"]).name], into):
                _get_logs(mirror, names, attempt, into)
                store.write_atomic(into / STATE, content)
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


def _furthest(
    mirror: Mirror, names: Mapping[str, set[str]], fits: Callable[[Record], bool]
) -> list[tuple[str, Record, bytes]]:
    found = []
    for attempt in names:
        content = mirror.read(attempt, STATE) if STATE in names[attempt] else None
        record = None if content is None else _record(content)
        if record is not None and content is not None and fits(record):
            found.append((attempt, record, content))
    return sorted(found, key=lambda one: progress(one[1]), reverse=True)


def _get_logs(mirror: Mirror, names: Mapping[str, set[str]], attempt: str, into: Path) -> None:
    """Bring the log of an attempt, and of those before it, unless this machine has its own."""
    for other in names:
        to = into if other == attempt else into.parent / str(number_of(other))
        before = other == attempt or number_of(other) < number_of(attempt)
        if before and LOG in names[other] and not (to / LOG).exists():
            mirror.get(other, [LOG], to)


def _record(content: bytes) -> Record | None:
    try:
        record = json.loads(content)
        progress(record), record["file"]
    except (ValueError, TypeError, KeyError):
        return None
    return dict(record)
