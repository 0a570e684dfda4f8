"""Optuna's tables in a database, made by whoever comes first."""

from __future__ import annotations

import random
import time
from typing import Any

import sqlalchemy.exc
from optuna.storages import BaseStorage, RDBStorage, get_storage

from fairtune.errors import StorageError
from fairtune.study.storages import address
from fairtune.study.storages.faults import PASSING, first_line, is_busy

OPEN_TRIES = 5
BUSY_SECONDS = 60.0


def connect(
    url: str, engine: dict[str, Any], shown: str, secrets: tuple[str, ...] = ()
) -> BaseStorage:
    """Return Optuna's storage at the database `url`, making its tables if need be.

    A server that says it is starting, or has no free connection, is asked again for a minute.

    Args:
        url: SQLAlchemy's URL.
        engine: Arguments of the engine.
        shown: The URL for messages.
        secrets: What messages must not show.

    Raises:
        StorageError: It cannot be opened.
    """
    deadline, attempt = time.monotonic() + BUSY_SECONDS, 0
    while True:
        attempt += 1
        try:
            # Optuna takes the URL for a template.
            url_template = url.replace("{", "{{").replace("}", "}}")
            return get_storage(RDBStorage(url_template, engine_kwargs=engine))
        except (*PASSING, RuntimeError, ImportError) as error:
            again = is_busy(error) and time.monotonic() < deadline
            if not again and not (attempt < OPEN_TRIES and _raced(error)):
                raise StorageError(
                    "the storage cannot be opened",
                    where=shown,
                    found=address.scrub(first_line(error), secrets),
                    todo="check host, port, user, password and that the database exists and runs",
                ) from None
        time.sleep(min(0.2 * attempt, 5.0) * random.uniform(0.5, 1.5))


def _raced(error: Exception) -> bool:
    """Tell whether workers that started together were making the tables at the same time."""
    return (
        isinstance(error, sqlalchemy.exc.IntegrityError | sqlalchemy.exc.ProgrammingError)
        or "already exists" in str(error)
        or "deadlock" in str(error).lower()
    )
