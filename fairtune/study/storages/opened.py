"""A storage that is open: asked with patience, never shown with its password."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import filelock
import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage

from fairtune.errors import StorageError, StudyError
from fairtune.study.storages import address
from fairtune.study.storages.faults import PASSING, first_line, is_full, may_pass

T = TypeVar("T")
HURRIED_SECONDS = 20.0
log = logging.getLogger(__name__)


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Opened:
    """An open storage.

    Attributes:
        storage: What Optuna reads and writes.
        shown: The URL with its password hidden.
        secrets: Passwords of the URL.
        lock: Path of the lock that guards changes of a row's state, None where the database does.
        sole: Path of the lock of the only worker, None where there may be several.
        limit: Bytes that an attribute of a row can have, None where nothing limits it.
        heal: Called before a storage that did not answer is asked again.
        leave: Called when the storage is closed.
    """

    storage: BaseStorage
    shown: str
    secrets: tuple[str, ...] = field(repr=False)
    lock: Path | None = None
    sole: Path | None = None
    limit: int | None = None
    heal: Callable[[], None] = field(default=_nothing, repr=False)
    leave: Callable[[], None] = field(default=_nothing, repr=False)

    @property
    def many(self) -> bool:
        """Whether it takes several workers."""
        return self.sole is None

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

    def patiently(
        self,
        do: Callable[[], T],
        what: str,
        seconds: float,
        leaving: Callable[[], object] = _nothing,
    ) -> T:
        """Return `do()`, asking again while the storage does not answer.

        Args:
            do: Asks the storage.
            what: What it asks for, for messages.
            seconds: For which it is asked again.
            leaving: Tells whether this process is to leave: then for `HURRIED_SECONDS` at most.

        Raises:
            StorageError: The storage did not answer in time, or refuses what is written.
        """
        began, pause = time.monotonic(), 0.1
        while True:
            try:
                return do()
            except PASSING as error:
                if is_full(error):
                    raise StorageError(
                        f"the disk under the storage is full: {what}",
                        where=self.shown,
                        todo="free space and give the same command again",
                    ) from None
                said = self.scrub(first_line(error))
                if not may_pass(error):
                    raise StorageError(
                        f"the storage refuses what was asked: {what}",
                        where=self.shown,
                        found=said,
                        todo="see what it says; the study stays as it is",
                    ) from None
                waited = time.monotonic() - began
                if waited + pause > (min(seconds, HURRIED_SECONDS) if leaving() else seconds):
                    raise StorageError(
                        f"the storage did not answer: {what}",
                        where=self.shown,
                        found=said,
                        todo="check that the database runs and can be reached, then resume",
                    ) from None
                log.warning("storage: %s: %s; asking again in %.1f s", what, said, pause)
            self.revive()
            _sleep(pause, leaving)
            pause = min(pause * 2, 15.0) * random.uniform(0.8, 1.2)

    def check_fit(self, attrs: Mapping[str, Any]) -> None:
        """Refuse attributes of a row that are longer than this database can hold.

        Raises:
            StorageError: One is; it says which, and how long it may be.
        """
        for name, value in attrs.items() if self.limit is not None else ():
            size = len(json.dumps(value))
            if size > (self.limit or 0):
                raise StorageError(
                    f"the attribute '{name}' of a row is longer than this database can hold",
                    where=self.shown,
                    found=f"{size} bytes",
                    allowed=f"at most {self.limit}",
                    todo="use PostgreSQL (--storage local or a server), which has no such limit",
                )

    def scrub(self, text: str) -> str:
        """Return `text` without any password of the URL."""
        return address.scrub(text, self.secrets)

    def close(self) -> None:
        """Close every connection."""
        engine = engine_of(self.storage)
        if engine is not None:
            engine.dispose()
        self.leave()

    def revive(self) -> None:
        """Start a server of fairtune's own again if it has ended; what hinders that is logged."""
        try:
            self.heal()
        except StorageError as error:
            log.warning("storage: %s (%s)", error.what, error.found)


def _sleep(seconds: float, leaving: Callable[[], object]) -> None:
    """Sleep, for a second at most once this process is to leave."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
        if leaving():
            return


@contextlib.contextmanager
def sole_worker(opened: Opened) -> Iterator[None]:
    """Be the only worker of a storage that takes one; of others, do nothing.

    The lock is the operating system's and ends with the process, however that ends. Who only
    reads needs none.

    Raises:
        StudyError: Another worker has it.
    """
    if opened.sole is None:
        yield
        return
    lock = filelock.FileLock(opened.sole)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise StudyError(
            "another worker works on this SQLite file, which takes one: it locks the whole file "
            "for each write, so that workers would wait for each other and fail",
            where=opened.shown,
            todo="for several workers start the study with --storage local, or move it there "
            "with `fairtune merge`",
        ) from None
    try:
        yield
    finally:
        lock.release()


def engine_of(storage: BaseStorage) -> sqlalchemy.engine.Engine | None:
    """Return the SQLAlchemy engine below `storage`, or None when there is none."""
    inner = getattr(storage, "_backend", storage)
    return inner.engine if isinstance(inner, RDBStorage) else None
