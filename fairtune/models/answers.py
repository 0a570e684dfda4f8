"""What an endpoint has answered, and every request it was sent, in one SQLite file.

An answer is written in the transaction that ends its request, before anybody sees it: a process
that is killed loses only what was on its way. Processes of one machine share the file; an image
that one of them is asking for is not asked for by another. On a shared disk each machine needs a
cache of its own, as SQLite cannot lock across machines.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import psutil
from numpy.typing import NDArray

from fairtune.errors import StorageError
from fairtune.store import writing

SENT, ANSWERED, UNREACHED = "sent", "answered", "unreached"
"""Ends of a request: none that is known (its process was killed, or it is on its way), an answer
that is kept, and nobody who took it. All others are words for what went wrong."""

_BUSY_SECONDS = 60.0
_AT_ONCE = 500
_CLOCK_SECONDS = 5.0
_TABLES = (
    "CREATE TABLE IF NOT EXISTS answer (image BLOB PRIMARY KEY, answer BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS request (number INTEGER PRIMARY KEY, process TEXT NOT NULL, "
    "time REAL NOT NULL, seconds REAL, images INTEGER NOT NULL, status TEXT NOT NULL, "
    "sent_bytes INTEGER NOT NULL, received_bytes INTEGER NOT NULL DEFAULT 0)",
    "CREATE TABLE IF NOT EXISTS served (process TEXT PRIMARY KEY, images INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS asked (image BLOB PRIMARY KEY, process TEXT NOT NULL, "
    "until REAL NOT NULL)",
    "CREATE TABLE IF NOT EXISTS pace (one INTEGER PRIMARY KEY, free REAL NOT NULL)",
)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Counts:
    """What was asked of an endpoint.

    Attributes:
        requests: Requests that were sent; one that is made again counts again.
        sent: Images in them.
        answered: Images in those whose answer was kept.
        served: Images that cost nothing: answered before, or equal to another of their batch.
    """

    requests: int
    sent: int
    answered: int
    served: int


class Answers:
    """The answers of one endpoint.

    Args:
        path: The file; made, with its folder, by the first process.
        dim: Length of an answer.

    Raises:
        StorageError: The file cannot be made, read or written; so do all methods.
    """

    def __init__(self, path: Path, dim: int) -> None:
        self.path, self.dim = path, dim
        self.process = _name(os.getpid())
        self._lock = threading.RLock()
        with writing(path.parent, what=path.name), self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two processes that both change the journal's mode get in each other's way.
            with filelock.FileLock(path.with_name(f".{path.name}.lock")):
                self._db = sqlite3.connect(
                    path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
                )
                weakref.finalize(self, self._db.close)
                self._db.execute("PRAGMA journal_mode=WAL")
                with self._changing() as db:
                    for table in _TABLES:
                        db.execute(table)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def find(self, images: Sequence[bytes]) -> dict[bytes, Floats]:
        """Return the answers there are to images, by the digest of each."""
        found: dict[bytes, Floats] = {}
        wanted = list(dict.fromkeys(images))
        with self._told(), self._lock:
            for start in range(0, len(wanted), _AT_ONCE):
                part = wanted[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                query = f"SELECT image, answer FROM answer WHERE image IN ({marks})"
                for image, answer in self._db.execute(query, part):
                    found[image] = self._read(answer)
        return found

    def take_on(self, images: Sequence[bytes], most: int, seconds: float) -> list[bytes]:
        """Return up to `most` of `images` that nobody has asked for: this process is to ask.

        Args:
            images: Digests without an answer.
            most: Images of one request.
            seconds: Time after which others take it that nothing will come of it.
        """
        taken: list[bytes] = []
        with self._changing() as db:
            rows = db.execute("SELECT image, process, until FROM asked")
            busy = {image: process for image, process, until in rows if until > time.time()}
            gone = {name for name in set(busy.values()) if not _lives(name)}
            for image in images:
                if len(taken) == most:
                    break
                done = db.execute("SELECT 1 FROM answer WHERE image = ?", [image]).fetchone()
                free = busy.get(image) is None or busy[image] in gone
                if done is None and free:
                    taken.append(image)
            self._hold(db, taken, seconds)
        return taken

    def hold(self, images: Sequence[bytes], seconds: float) -> None:
        """Go on being who asks for images, for so many seconds from now."""
        with self._changing() as db:
            self._hold(db, images, seconds)

    def give_up(self, images: Sequence[bytes]) -> None:
        """Let others ask for images that this process has taken on."""
        with self._changing() as db:
            rows = [[image, self.process] for image in images]
            db.executemany("DELETE FROM asked WHERE image = ? AND process = ?", rows)

    def begin(self, images: Sequence[bytes], size: int, seconds: float) -> int:
        """Write down that a request goes out, and return its number.

        Args:
            images: Digests of its images.
            size: Bytes of its body.
            seconds: As in `take_on`, from now on.
        """
        with self._changing() as db:
            self._hold(db, images, seconds)
            row = [self.process, time.time(), len(images), SENT, size]
            fields = "process, time, images, status, sent_bytes"
            made = db.execute(f"INSERT INTO request ({fields}) VALUES (?, ?, ?, ?, ?)", row)
            return int(made.lastrowid or 0)

    def end(self, number: int, status: str, size: int) -> None:
        """Write down how a request without a usable answer ended.

        Args:
            number: Of the request.
            status: In words; `UNREACHED` where nobody took it.
            size: Bytes that were received.
        """
        with self._changing() as db:
            self._end(db, number, status, size)

    def keep(self, number: int, answers: Mapping[bytes, Floats], size: int) -> None:
        """Keep the answers of a request and write down that it was answered, in one transaction.

        Args:
            number: Of the request.
            answers: `(dim,)` by the digest of the image.
            size: Bytes that were received.
        """
        rows = [(image, answer.astype("<f4").tobytes()) for image, answer in answers.items()]
        with self._changing(sure=True) as db:
            db.executemany("INSERT OR IGNORE INTO answer (image, answer) VALUES (?, ?)", rows)
            db.executemany("DELETE FROM asked WHERE image = ?", [[image] for image, _ in rows])
            self._end(db, number, ANSWERED, size)

    def serve(self, images: int) -> None:
        """Count images that cost nothing."""
        if images:
            with self._changing() as db:
                db.execute(
                    "INSERT INTO served (process, images) VALUES (?, ?) "
                    "ON CONFLICT (process) DO UPDATE SET images = images + excluded.images",
                    [self.process, images],
                )

    def counts(self, *, here: bool = False) -> Counts:
        """Return what was asked by all processes so far; by this one alone with `here`."""
        only, name = (" AND process = ?", [self.process]) if here else ("", [])
        with self._told(), self._lock:
            requests, sent, answered = self._db.execute(
                "SELECT COUNT(*), COALESCE(SUM(images), 0), "
                f"COALESCE(SUM(images * (status = '{ANSWERED}')), 0) "
                f"FROM request WHERE status != '{UNREACHED}'{only}",
                name,
            ).fetchone()
            (served,) = self._db.execute(
                f"SELECT COALESCE(SUM(images), 0) FROM served WHERE 1{only}", name
            ).fetchone()
        return Counts(requests, sent, answered, served)

    def turn(self, per_second: float) -> float:
        """Take the next turn of all processes that share the file; return the seconds until it.

        Args:
            per_second: Turns a second, above 0.
        """
        now = time.time()
        with self._changing() as db:
            row = db.execute("SELECT free FROM pace").fetchone()
            # A clock that was set back must not hold everybody up for as long.
            free = now if row is None or row[0] > now + 3600 else max(now, row[0])
            db.execute("INSERT OR REPLACE INTO pace VALUES (1, ?)", [free + 1 / per_second])
        return float(free - now)

    def _hold(self, db: sqlite3.Connection, images: Sequence[bytes], seconds: float) -> None:
        until = time.time() + seconds
        rows = [(image, self.process, until) for image in images]
        db.executemany("INSERT OR REPLACE INTO asked VALUES (?, ?, ?)", rows)

    def _end(self, db: sqlite3.Connection, number: int, status: str, size: int) -> None:
        db.execute(
            "UPDATE request SET status = ?, received_bytes = ?, seconds = ? - time "
            "WHERE number = ?",
            [status, size, time.time(), number],
        )

    def _read(self, answer: bytes) -> Floats:
        if len(answer) != 4 * self.dim:
            raise StorageError(
                "an answer of an endpoint is damaged",
                where=self.path,
                found=f"{len(answer)} bytes",
                allowed=f"{4 * self.dim} bytes",
                todo="move the file away; what it held is then asked for again",
            )
        return np.frombuffer(answer, dtype="<f4").astype(np.float32)

    @contextlib.contextmanager
    def _changing(self, *, sure: bool = False) -> Iterator[sqlite3.Connection]:
        """Give the connection for one transaction; a `sure` one survives that the power goes."""
        with self._told(), self._lock:
            self._db.execute(f"PRAGMA synchronous={'FULL' if sure else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(
                "the answers of an endpoint cannot be kept or read",
                where=self.path,
                found=str(error),
                todo="free space, or let this account write there; a damaged file can be moved "
                "away, and what it held is asked for again",
            ) from None

    def __deepcopy__(self, memo: dict[int, Any]) -> Answers:
        """Return itself: the file is one."""
        return self


def _name(pid: int) -> str:
    """Return what tells a process from all others, on this machine and over time."""
    return f"{platform.node()}:{pid}:{psutil.Process(pid).create_time():.2f}"


def _lives(name: str) -> bool:
    """Tell whether a process may still be there; of another machine that is not known."""
    node, pid, began = name.rsplit(":", 2)
    if node != platform.node():
        return True
    try:
        # The time is reckoned from that of the last boot, which a clock that is set moves.
        return abs(psutil.Process(int(pid)).create_time() - float(began)) < _CLOCK_SECONDS
    except psutil.Error:
        return False
