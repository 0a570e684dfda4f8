"""A PostgreSQL of fairtune's own in a folder: several workers on one machine, no set-up.

Whoever opens it starts it if need be, and holds a shared lock of the operating system on a file of
the folder. Whoever leaves and then can have that lock alone is the last one, and stops the server.
A process that is killed leaves too, without stopping anything: the server goes on for the others.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import filelock
import sqlalchemy

from fairtune.errors import StorageError
from fairtune.study.storages import files
from fairtune.study.storages.address import LOCAL, normalise
from fairtune.study.storages.opened import Opened
from fairtune.study.storages.postmaster import Postmaster
from fairtune.study.storages.programs import Account, account_for
from fairtune.study.storages.servers import open_server

if importlib.util.find_spec("fcntl"):
    import fcntl


class Presence:
    """That this process uses the server of a folder; ends with `leave`, or with the process.

    Args:
        server: The server; started here unless it runs.

    Raises:
        StorageError: It cannot be started.
    """

    def __init__(self, server: Postmaster) -> None:
        self._server = server
        self._file = -1
        lock = self._lock()
        with _taken(lock, server.folder):
            try:
                self._file = os.open(server.folder / "users", os.O_RDWR | os.O_CREAT, 0o600)
                server.account.take(server.folder / "users")
                server.account.take(Path(lock.lock_file))
                fcntl.flock(self._file, fcntl.LOCK_SH)
                server.make()
                server.start()
            except BaseException:
                _close(self._file)
                raise
        self._process = os.getpid()
        atexit.register(self.leave)

    def leave(self) -> None:
        """End the presence, once; the last of all stops the server."""
        atexit.unregister(self.leave)
        # A forked child shares the open file with its parent, and must not leave in its place.
        if self._file < 0 or os.getpid() != self._process:
            return
        with contextlib.suppress(OSError), self._lock():
            fcntl.flock(self._file, fcntl.LOCK_UN)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._server.stop()
        _close(self._file)
        self._file = -1

    def heal(self) -> None:
        """Start the server again if it has ended.

        Raises:
            StorageError: It cannot be started.
        """
        if not self._server.runs():
            with _taken(self._lock(), self._server.folder):
                self._server.start()

    def _lock(self) -> filelock.FileLock:
        return filelock.FileLock(self._server.folder / "lock", mode=0o600)


def open_local(folder: Path, must_exist: bool, connections: int = 1) -> Opened:
    """Open the PostgreSQL kept in `folder`, made and started if need be.

    Raises:
        StorageError: It is not there although it must be, cannot be made or started, or the
            folder lies on a network file system.
    """
    folder = folder.expanduser().resolve()
    if must_exist and not folder.is_dir():
        raise StorageError(
            "there is no PostgreSQL of fairtune's in this folder",
            where=folder,
            todo="check --out and --storage",
        )
    present = Presence(Postmaster(folder, _prepare(folder)))
    try:
        driver = normalise("postgresql://x").partition("://")[0]
        url = Postmaster(folder, account_for(folder)).url(driver)
        opened = open_server(url, sqlalchemy.make_url(url), connections)
    except BaseException:
        present.leave()
        raise
    return replace(opened, shown=f"{LOCAL}{folder}", heal=present.heal, leave=present.leave)


def _prepare(folder: Path) -> Account:
    """Make the folder, and return who runs its server."""
    if importlib.util.find_spec("fcntl") is None:
        raise StorageError(
            "--storage local needs Linux or macOS", todo="use a database server of your own"
        )
    near = next(path for path in (folder, *folder.parents) if path.exists())
    if files.is_remote(near):
        raise StorageError(
            "--storage local needs a local disk: on a network file system a database can be "
            "damaged, and two machines could start it at once",
            where=folder,
            todo="give --storage local:FOLDER with a folder of a local disk, or the URL of a "
            "database server",
        )
    account, made = account_for(folder), not folder.exists()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if made:
            account.take(folder)
    except OSError as error:
        raise StorageError(
            "the folder of the storage cannot be made", where=folder, found=error.strerror
        ) from None
    if account.gid is not None and not account.can("/bin/sh", "-c", 'cd "$1"', "sh", folder):
        if made:
            folder.rmdir()
        raise _closed(folder, account)
    return account


def _closed(folder: Path, account: Account) -> StorageError:
    if not account.can("/bin/true"):
        return StorageError(
            "PostgreSQL refuses to be run by root, and in this container no other account can be "
            "taken on",
            where=folder,
            found=f"account '{account.name}'",
            todo="run fairtune as an ordinary user, or give --storage a database server",
        )
    shut = next((path for path in reversed(folder.parents) if not path.stat().st_mode & 1), folder)
    return StorageError(
        "PostgreSQL refuses to be run by root, and the account that runs it for you cannot enter "
        "the results folder",
        where=folder,
        found=f"account '{account.name}', folder {shut}",
        todo=f"chmod o+x {shut}, or give --out a folder that every account may enter, or run "
        "fairtune as an ordinary user",
    )


@contextlib.contextmanager
def _taken(lock: filelock.FileLock, folder: Path) -> Iterator[None]:
    try:
        lock.acquire()
    except OSError as error:
        raise StorageError(
            "the folder of the storage cannot be used",
            where=folder,
            found=error.strerror,
            todo="use the account that began the study",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _close(file: int) -> None:
    with contextlib.suppress(OSError):
        os.close(file)
