"""Opening the database or file that holds a study, without ever showing its password."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import logging
import os
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import filelock
import optuna
import psutil
import sqlalchemy
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from fairtune.errors import StorageError

T = TypeVar("T")
log = logging.getLogger(__name__)

HIDDEN = "***"
BUSY_SECONDS = 60
OPEN_TRIES = 5
_USER = re.compile(r"(?P<head>^[\w+.-]+://[^/?#@:]*):(?P<secret>.*)@(?=[^@]*$)")
_QUERY = re.compile(r"(?P<head>[?&](?:password|passwd|sslpassword|token)=)(?P<secret>[^&#]*)")
_DRIVERS = {
    "postgresql": (("psycopg", "psycopg"), ("psycopg2", "psycopg2")),
    "mysql": (("pymysql", "pymysql"), ("MySQLdb", "mysqldb")),
}
_EXTRAS = {"postgresql": "pip install 'fairtune[postgres]'", "mysql": "pip install pymysql"}
_REMOTE = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "afs", "sshfs", "glusterfs")
# What a database says when it cannot be asked just now; anything else is a fault of the question.
PASSING = (
    optuna.exceptions.StorageInternalError,
    sqlalchemy.exc.DBAPIError,
    sqlalchemy.exc.TimeoutError,
    OSError,
)


@dataclass(frozen=True)
class Opened:
    """An open storage.

    Attributes:
        storage: What Optuna reads and writes.
        shown: The URL with its password hidden.
        lock: Path of the lock that guards changes of a row's state, None where the database does.
    """

    storage: BaseStorage
    shown: str
    secrets: tuple[str, ...] = field(repr=False)
    lock: Path | None = None

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let one process at a time change the state of a row.

        SQLite has no row locks, so that two processes could end one row in two ways.
        """
        if self.lock is None:
            yield
            return
        with filelock.FileLock(self.lock):
            yield

    def patiently(self, do: Callable[[], T], what: str, seconds: float) -> T:
        """Return `do()`, asking again while the storage does not answer.

        Raises:
            StorageError: The storage did not answer for `seconds`, or refuses what is written.
        """
        deadline, pause = time.monotonic() + seconds, 0.1
        while True:
            try:
                return do()
            except PASSING as error:
                if _full(error):
                    raise StorageError(
                        f"the disk under the storage is full: {what}",
                        where=self.shown,
                        todo="free space and give the same command again",
                    ) from None
                if not _passing(error) or time.monotonic() + pause > deadline:
                    raise StorageError(
                        f"the storage did not answer: {what}",
                        where=self.shown,
                        found=self.scrub(_first_line(error)),
                        todo="check that the database runs and can be reached, then resume",
                    ) from None
                said = self.scrub(_first_line(error))
                log.warning("storage: %s: %s; asking again in %.1f s", what, said, pause)
            time.sleep(pause)
            pause = min(pause * 2, 15.0) * random.uniform(0.8, 1.2)

    def scrub(self, text: str) -> str:
        """Return `text` without any password of the URL."""
        return _scrub(text, self.secrets)

    def close(self) -> None:
        """Close every connection."""
        engine = engine_of(self.storage)
        if engine is not None:
            engine.dispose()


def redact(url: str) -> str:
    """Return `url` with every password in it replaced by three stars."""
    hidden = _USER.sub(rf"\g<head>:{HIDDEN}@", url)
    return _QUERY.sub(rf"\g<head>{HIDDEN}", hidden)


def normalise(url: str) -> str:
    """Return `url` with a scheme and, for a database server, the driver that is installed.

    A path ending in `.db` or `.sqlite3` is an SQLite file, `journal:PATH` a journal file.

    Raises:
        StorageError: No driver for this database is installed, or the scheme is unknown.
    """
    if url.startswith("journal:"):
        return url
    if "://" not in url:
        if url.endswith((".db", ".sqlite", ".sqlite3")):
            return f"sqlite:///{url}"
        raise StorageError(
            "not a storage URL",
            found=redact(url),
            allowed="PATH.db, sqlite:///PATH, journal:PATH, postgresql://..., mysql://...",
        )
    scheme, rest = url.split("://", 1)
    dialect = {"postgres": "postgresql", "mariadb": "mysql"}.get(scheme, scheme)
    if dialect in _DRIVERS:
        for module, driver in _DRIVERS[dialect]:
            if importlib.util.find_spec(module) is not None:
                return f"{dialect}+{driver}://{rest}"
        raise StorageError(
            f"no driver for {dialect} is installed", found=redact(url), todo=_EXTRAS[dialect]
        )
    return url


def open_storage(url: str, *, must_exist: bool = False) -> Opened:
    """Open the storage at `url`.

    Args:
        url: As `normalise` takes it.
        must_exist: Refuse a file that is not there instead of making it.

    Raises:
        StorageError: It cannot be reached or read; the message never holds the password.
    """
    _quieten()
    url = normalise(url)
    if url.startswith("journal:"):
        return _open_journal(Path(url.removeprefix("journal:").removeprefix("//")), must_exist)
    secrets = _secrets(url)
    try:
        address = sqlalchemy.engine.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise StorageError("not a storage URL", found=redact(url)) from None
    if address.get_backend_name() == "sqlite":
        return _open_sqlite(url, address.database, must_exist)
    engine: dict[str, Any] = {"pool_size": 1, "max_overflow": 2, "pool_pre_ping": True}
    if address.get_backend_name() == "postgresql":
        engine["connect_args"] = {"connect_timeout": 15}
    storage = _connect(url, engine, redact(url), secrets)
    return Opened(storage, redact(url), secrets)


def engine_of(storage: BaseStorage) -> sqlalchemy.engine.Engine | None:
    """Return the SQLAlchemy engine below `storage`, or None when there is none."""
    inner = getattr(storage, "_backend", storage)
    return inner.engine if isinstance(inner, RDBStorage) else None


def is_missing(url: str) -> bool:
    """Tell whether `url` names a file that is not there; of a server it is never said."""
    url = normalise(url)
    if url.startswith("journal:"):
        return not Path(url.removeprefix("journal:").removeprefix("//")).exists()
    if not url.startswith("sqlite"):
        return False
    database = sqlalchemy.engine.make_url(url).database
    return bool(database) and not Path(str(database)).exists()


def is_remote(path: Path) -> bool:
    """Tell whether `path` lies on a network file system, where SQLite's locks do not hold."""
    place = path.resolve()
    mounts = [
        part for part in psutil.disk_partitions(all=True) if place.is_relative_to(part.mountpoint)
    ]
    if not mounts:
        return False
    kind = max(mounts, key=lambda part: len(part.mountpoint)).fstype.lower()
    return any(name in kind for name in _REMOTE)


def _open_sqlite(url: str, database: str | None, must_exist: bool) -> Opened:
    if not database or database == ":memory:":
        raise StorageError(
            "a study in memory would be lost with its process",
            found=url,
            allowed="sqlite:///PATH",
        )
    path = Path(database)
    _check_file(path, must_exist)
    if not os.access(path.parent, os.W_OK):
        raise StorageError(
            "the folder of the SQLite file cannot be written, which SQLite needs also to read it",
            where=path,
            todo="copy the file, with its -wal if there is one, to a folder of your own and give "
            "that as --storage",
        )
    lock = path.with_name(path.name + ".lock")
    with filelock.FileLock(lock):
        if not is_remote(path.parent):
            _write_ahead(path)
        storage = _connect(url, {"connect_args": {"timeout": BUSY_SECONDS}}, url, ())
    return Opened(storage, url, (), lock)


def _write_ahead(path: Path) -> None:
    # Readers then never wait for a writer; it needs shared memory, so a local file.
    # What is wrong with a file that is no database, Optuna's own opening says better.
    with (
        contextlib.suppress(sqlite3.DatabaseError),
        contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection,
    ):
        connection.execute("PRAGMA journal_mode=WAL").fetchall()


def _open_journal(path: Path, must_exist: bool) -> Opened:
    _check_file(path, must_exist)
    shown = f"journal:{path}"
    try:
        lock = JournalFileOpenLock(str(path))
        backend = JournalFileBackend(str(path), lock_obj=lock)
        _mend(path, lock)
        return Opened(JournalStorage(backend), shown, ())
    except (OSError, ValueError) as error:
        raise StorageError(
            "the journal file cannot be read", where=shown, found=_first_line(error)
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


def _check_file(path: Path, must_exist: bool) -> None:
    if must_exist and not path.exists():
        raise StorageError("there is no such storage file", where=path, todo="check --storage")
    if not path.parent.is_dir():
        raise StorageError(
            "the folder of the storage file does not exist",
            where=path,
            found=str(path.parent),
            todo="make the folder, or choose another --storage",
        )


def _connect(
    url: str, engine: dict[str, Any], shown: str, secrets: tuple[str, ...]
) -> BaseStorage:
    # Workers that start together all make the tables; all but one are refused and look again.
    last: Exception | None = None
    for attempt in range(OPEN_TRIES):
        try:
            return get_storage(RDBStorage(url, engine_kwargs=engine))
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError) as error:
            last = error
        except (*PASSING, RuntimeError, ImportError) as error:
            last = error
            if not _may_pass(error):
                break
        time.sleep(0.2 * (attempt + 1) * random.uniform(0.5, 1.5))
    assert last is not None
    raise StorageError(
        "the storage cannot be opened",
        where=shown,
        found=_scrub(_first_line(last), secrets),
        todo="check host, port, user, password and that the database exists and runs",
    ) from None


def _passing(error: BaseException) -> bool:
    """Tell whether asking again may help: the fault is the connection's, not the question's."""
    cause = error.__cause__ or error
    return not _full(error) and not isinstance(
        cause,
        sqlalchemy.exc.DataError
        | sqlalchemy.exc.IntegrityError
        | sqlalchemy.exc.NotSupportedError
        | sqlalchemy.exc.ProgrammingError,
    )


def _full(error: BaseException) -> bool:
    """Tell whether the disk under an SQLite or journal file is full: waiting frees nothing."""
    parts = (error, error.__cause__, getattr(error.__cause__, "orig", None))
    said = " ".join(str(part) for part in parts if part is not None)
    full = "database or disk is full" in said or "No space left on device" in said
    return full or getattr(error, "errno", None) == errno.ENOSPC


def _may_pass(error: Exception) -> bool:
    return "already exists" in str(error) or "deadlock" in str(error).lower()


def _secrets(url: str) -> tuple[str, ...]:
    found = {m["secret"] for p in (_USER, _QUERY) for m in p.finditer(url)}
    return tuple(sorted({s for raw in found if raw for s in (raw, unquote(raw))}, key=len))[::-1]


def _scrub(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    original = getattr(cause, "orig", None) or cause
    lines = str(original).strip().splitlines() or [type(original).__name__]
    return lines[0][:300]


def _quieten() -> None:
    # Optuna prints through a handler of its own; its messages go the way of all others instead.
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
