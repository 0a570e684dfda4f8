"""PostgreSQL and MySQL: how a connection is made, kept, and given up when its link is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import URL

from fairtune.study.storages import tables
from fairtune.study.storages.address import redact, secrets_of
from fairtune.study.storages.opened import Opened

POSTGRES, MYSQL = "postgresql", "mysql"
TEXT_BYTES = 65_535
"""What MySQL's TEXT holds, the type of Optuna's attributes."""
CONNECT_SECONDS = 10
CUT_SECONDS = 30
"""After these, roughly, a link that was cut is given up."""
STATEMENT_SECONDS = 60
# Shorter than CUT_SECONDS: while a statement waits for a lock MySQL says nothing.
_LOCK_SECONDS = 20

_GIVEN: dict[str, dict[str, Any]] = {
    # Names as libpq has them, the library below psycopg and psycopg2.
    POSTGRES: {
        "client_encoding": "utf8",
        "connect_timeout": CONNECT_SECONDS,
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 4,
        "tcp_user_timeout": CUT_SECONDS * 1000,
    },
    # Names that pymysql and mysqlclient share.
    MYSQL: {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": CUT_SECONDS,
        "write_timeout": CUT_SECONDS,
        "charset": "utf8mb4",
    },
}
_SETTINGS = {
    POSTGRES: (
        f"SET statement_timeout = '{STATEMENT_SECONDS}s'",
        f"SET lock_timeout = '{STATEMENT_SECONDS}s'",
        f"SET idle_in_transaction_session_timeout = '{STATEMENT_SECONDS}s'",
    ),
    # A value that is too long is refused, never cut.
    MYSQL: (
        "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')",
        f"SET SESSION innodb_lock_wait_timeout = {_LOCK_SECONDS}",
    ),
}


def open_server(url: str, address: URL, connections: int = 1) -> Opened:
    """Open the database at `url`.

    Args:
        url: With the driver's name.
        address: The same, taken apart.
        connections: How many are kept open; two more may be opened for a time.

    Raises:
        StorageAway: It does not answer.
        StorageError: It refuses to be opened.
    """
    kind = address.get_backend_name()
    secrets = secrets_of(url)
    engine = engine_of_kind(kind, address, connections)
    storage = tables.connect(url, engine, redact(url), secrets, served=True)
    limit = TEXT_BYTES if kind == MYSQL else None
    return Opened(storage, redact(url), secrets, limit=limit)


def engine_of_kind(kind: str, address: URL, connections: int) -> dict[str, Any]:
    """Return the arguments of SQLAlchemy's engine; what the URL says itself is left to it."""
    engine: dict[str, Any] = {
        "pool_size": connections,
        "max_overflow": 2,
        "pool_pre_ping": True,
        "pool_recycle": 1800,
    }
    given = _GIVEN.get(kind, {})
    if address.get_driver_name() == "psycopg":
        # A pooler may give each transaction another session, without what was prepared in one.
        given = given | {"prepare_threshold": None}
    engine["connect_args"] = {k: v for k, v in given.items() if k not in address.query}
    if kind in _SETTINGS:
        engine["pool_events"] = [(_saying(_SETTINGS[kind]), "connect")]
    if kind == MYSQL:
        # Each statement reads what others have written by then, as PostgreSQL does.
        engine["isolation_level"] = "READ COMMITTED"
    return engine


def _saying(statements: tuple[str, ...]) -> Callable[[Any, object], None]:
    """Return what sets up a new connection by `statements`."""

    def connected(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()
        connection.commit()

    return connected
