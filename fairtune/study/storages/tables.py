"""Optuna's tables in a database, made by whoever comes first."""

from __future__ import annotations

import contextlib
import random
import time
from typing import Any

import sqlalchemy.exc
from optuna.storages import BaseStorage, RDBStorage, get_storage

from fairtune.errors import StorageAway, StorageError
from fairtune.study.storages import address
from fairtune.study.storages.faults import PASSING, first_line, is_busy, may_pass

OPEN_TRIES = 5
BUSY_SECONDS = 60.0


def connect(
    url: str,
    engine: dict[str, Any],
    shown: str,
    secrets: tuple[str, ...] = (),
    *,
    served: bool = False,
) -> BaseStorage:
    """Return Optuna's storage at the database `url`, making its tables if need be.

    A server that says it is starting, or has no free connection, is asked again for a minute.

    Args:
        url: SQLAlchemy's URL.
        engine: Arguments of the engine.
        shown: The URL for messages.
        secrets: What messages must not show.
        served: It is a server's.

    Raises:
        StorageAway: A server does not answer.
        StorageError: It cannot be opened.
    """
    deadline, attempt = time.monotonic() + BUSY_SECONDS, 0
    while True:
        attempt += 1
        made = _Made()
        try:
            # Optuna takes the URL for a template.
            template = url.replace("{", "{{").replace("}", "}}")
            storage = get_storage(RDBStorage(template, engine_kwargs=made.watched(engine)))
            made.keep()
            return storage
        except (*PASSING, RuntimeError, ImportError) as error:
            made.close()
            again = is_busy(error) and time.monotonic() < deadline
            if not again and not (attempt < OPEN_TRIES and _raced(error)):
                said = address.scrub(first_line(error), secrets)
                away = served and isinstance(error, PASSING) and may_pass(error)
                raise (StorageAway if away else StorageError)(
                    "the storage cannot be opened", where=shown, found=said, todo=_todo(error)
                ) from None
        time.sleep(min(0.2 * attempt, 5.0) * random.uniform(0.5, 1.5))


def _todo(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "install the driver that the URL names"
    if is_busy(error):
        return (
            "try again later; if it has no free connection, let it take more, or put a pooler "
            "or `fairtune proxy` before it"
        )
    return "check host, port, user, password and that the database exists and runs"


class _Made:
    """Connections made while a storage is opened, to be closed if that does not come to be."""

    def __init__(self) -> None:
        self._connections: list[Any] | None = []

    def watched(self, engine: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of an engine whose connections are known here."""
        events = [(self._note, "connect"), *engine.get("pool_events", ())]
        return {**engine, "pool_events": events}

    def keep(self) -> None:
        """Leave the connections, and those that follow, to the engine."""
        self._connections = None

    def close(self) -> None:
        """Close them all."""
        for connection in self._connections or ():
            with contextlib.suppress(Exception):
                connection.close()

    def _note(self, connection: Any, _: object) -> None:
        if self._connections is not None:
            self._connections.append(connection)


def _raced(error: Exception) -> bool:
    """Tell whether workers that started together were making the tables at the same time."""
    return (
        isinstance(error, sqlalchemy.exc.IntegrityError | sqlalchemy.exc.ProgrammingError)
        or "already exists" in str(error)
        or "deadlock" in str(error).lower()
    )
