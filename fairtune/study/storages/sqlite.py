"""SQLite: one file, one worker."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import filelock

from fairtune.errors import StorageError
from fairtune.study.storages import files, tables
from fairtune.study.storages.opened import Opened

BUSY_SECONDS = 60


def open_sqlite(url: str, database: str | None, must_exist: bool) -> Opened:
    """Open the SQLite file `database`.

    Raises:
        StorageError: It is in memory, is not there, cannot be written or is no database.
    """
    if not database or database == ":memory:":
        raise StorageError(
            "a study in memory would be lost with its process",
            found=url,
            allowed="sqlite:///PATH",
        )
    path = Path(database)
    files.check_file(path, must_exist)
    if not os.access(path.parent, os.W_OK):
        raise StorageError(
            "the folder of the SQLite file cannot be written, which SQLite needs also to read it",
            where=path,
            todo="copy the file, with its -wal if there is one, to a folder of your own and give "
            "that as --storage",
        )
    lock = path.with_name(path.name + ".lock")
    with filelock.FileLock(lock):
        if not files.is_remote(path.parent):
            _write_ahead(path)
        storage = tables.connect(url, {"connect_args": {"timeout": BUSY_SECONDS}}, url)
    return Opened(storage, url, (), lock, path.with_name(path.name + ".worker"))


def _write_ahead(path: Path) -> None:
    # Readers then never wait for a writer; it needs shared memory, so a local file.
    # What is wrong with a file that is no database, Optuna's own opening says better.
    with (
        contextlib.suppress(sqlite3.DatabaseError),
        contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection,
    ):
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
