"""Opening the database or file that holds a study, without ever showing its password.

One module per kind: `sqlite`, `journal`, `servers` (PostgreSQL and MySQL), `local` (a PostgreSQL
of fairtune's own) and `proxied` (a proxy of `fairtune proxy`).
"""

from __future__ import annotations

from pathlib import Path

import optuna
import sqlalchemy

from fairtune.errors import StorageError
from fairtune.study.storages.address import GRPC, JOURNAL, LOCAL, normalise, redact
from fairtune.study.storages.faults import PASSING
from fairtune.study.storages.files import is_remote
from fairtune.study.storages.journal import open_journal, path_of
from fairtune.study.storages.local import open_local
from fairtune.study.storages.opened import Opened, engine_of, sole_worker
from fairtune.study.storages.proxied import open_proxied
from fairtune.study.storages.servers import open_server
from fairtune.study.storages.sqlite import open_sqlite

__all__ = [
    "PASSING",
    "Opened",
    "engine_of",
    "is_missing",
    "is_remote",
    "normalise",
    "open_storage",
    "redact",
    "sole_worker",
]


def open_storage(url: str, *, must_exist: bool = False, connections: int = 1) -> Opened:
    """Open the storage at `url`.

    Args:
        url: As `normalise` takes it.
        must_exist: Refuse a file that is not there instead of making it.
        connections: How many to a database server are kept open.

    Raises:
        StorageError: It cannot be reached or read; the message never holds the password.
    """
    _quieten()
    url = normalise(url)
    if url.startswith(JOURNAL):
        return open_journal(path_of(url), must_exist)
    if url.startswith(LOCAL):
        return open_local(Path(url.removeprefix(LOCAL)), must_exist, connections)
    if url.startswith(GRPC):
        return open_proxied(url)
    address = _taken_apart(url)
    if address.get_backend_name() == "sqlite":
        return open_sqlite(url, address.database, must_exist)
    return open_server(url, address, connections)


def is_missing(url: str) -> bool:
    """Tell whether `url` names a file or folder that is not there; never said of a server."""
    url = normalise(url)
    if url.startswith(JOURNAL):
        return not path_of(url).exists()
    if url.startswith(LOCAL):
        return not Path(url.removeprefix(LOCAL)).is_dir()
    if not url.startswith("sqlite"):
        return False
    database = _taken_apart(url).database
    return bool(database) and not Path(str(database)).exists()


def _taken_apart(url: str) -> sqlalchemy.engine.URL:
    try:
        return sqlalchemy.engine.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        raise StorageError("not a storage URL", found=redact(url)) from None


def _quieten() -> None:
    # Optuna prints through a handler of its own; its messages go the way of all others instead.
    optuna.logging.disable_default_handler()
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
