"""Journal files: every change is a line, every process reads them all."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from fairtune.errors import StorageError
from fairtune.study.storages import files
from fairtune.study.storages.address import JOURNAL
from fairtune.study.storages.faults import first_line
from fairtune.study.storages.opened import Opened

log = logging.getLogger(__name__)


def path_of(url: str) -> Path:
    """Return the file of `journal:PATH`."""
    return Path(url.removeprefix(JOURNAL).removeprefix("//"))


def open_journal(path: Path, must_exist: bool) -> Opened:
    """Open the journal file `path`; one on a network file system gets a warning.

    Raises:
        StorageError: It is not there, or is no journal.
    """
    files.check_file(path, must_exist)
    shown = f"{JOURNAL}{path}"
    if files.is_remote(path.parent):
        log.warning(
            "%s lies on a network file system: with workers on several machines a line may be "
            "lost or cut there, which no later reading mends; use PostgreSQL for these",
            shown,
        )
    try:
        lock = JournalFileOpenLock(str(path))
        backend = JournalFileBackend(str(path), lock_obj=lock)
        _mend(path, lock)
        return Opened(JournalStorage(backend), shown, ())
    except (OSError, ValueError) as error:
        raise StorageError(
            "the journal file cannot be read", where=shown, found=first_line(error)
        ) from None


def _mend(path: Path, lock: JournalFileOpenLock) -> None:
    """Cut off a last line that a killed writer left unfinished: it would spoil the next one."""
    lock.acquire()
    try:
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    finally:
        lock.release()
