"""Addresses of storages: what kind each is, which driver serves it, what is never shown."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from urllib.parse import unquote

from fairtune.errors import StorageError

HIDDEN = "***"
LOCAL, JOURNAL, GRPC = "local:", "journal:", "grpc://"
ALLOWED = (
    "local, PATH.db, sqlite:///PATH, journal:PATH, postgresql://..., mysql://..., grpc://HOST:PORT"
)
_USER = re.compile(r"(?P<head>^[\w+.-]+://[^/?#@:]*):(?P<secret>.*)@(?=[^@]*$)")
_QUERY = re.compile(r"(?P<head>[?&](?:password|passwd|sslpassword|token)=)(?P<secret>[^&#]*)")
_SQLITE = re.compile(r"(?P<head>sqlite(\+\w+)?:///)(?P<path>[^?]+)(?P<tail>.*)")
_DRIVERS = {
    "postgresql": (("psycopg", "psycopg"), ("psycopg2", "psycopg2")),
    "mysql": (("pymysql", "pymysql"), ("MySQLdb", "mysqldb")),
}
_EXTRAS = {"postgresql": "postgres", "mysql": "mysql"}


def redact(url: str) -> str:
    """Return `url` with every password in it replaced by three stars."""
    hidden = _USER.sub(rf"\g<head>:{HIDDEN}@", url)
    return _QUERY.sub(rf"\g<head>{HIDDEN}", hidden)


def secrets_of(url: str) -> tuple[str, ...]:
    """Return the passwords in `url`, as they stand there and as they are meant, longest first."""
    found = {m["secret"] for p in (_USER, _QUERY) for m in p.finditer(url)}
    return tuple(sorted({s for raw in found if raw for s in (raw, unquote(raw))}, key=len))[::-1]


def scrub(text: str, secrets: tuple[str, ...]) -> str:
    """Return `text` without any of `secrets`."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def normalise(url: str) -> str:
    """Return `url` with a scheme and, for a database server, the driver that is installed.

    A path ending in `.db` or `.sqlite3` is an SQLite file, `journal:PATH` a journal file,
    `local:FOLDER` a PostgreSQL of fairtune's own, `grpc://HOST:PORT` a proxy.

    Raises:
        StorageError: No driver for this database is installed, or the scheme is unknown.
    """
    if url.startswith((JOURNAL, GRPC)) or (len(url) > len(LOCAL) and url.startswith(LOCAL)):
        return url
    if "://" not in url:
        if url.endswith((".db", ".sqlite", ".sqlite3")):
            return f"sqlite:///{url}"
        raise StorageError("not a storage URL", found=redact(url), allowed=ALLOWED)
    scheme, rest = url.split("://", 1)
    dialect = {"postgres": "postgresql", "mariadb": "mysql"}.get(scheme, scheme)
    if dialect in _DRIVERS:
        for module, driver in _DRIVERS[dialect]:
            if importlib.util.find_spec(module) is not None:
                return f"{dialect}+{driver}://{rest}"
        raise StorageError(
            f"no driver for {dialect} is installed",
            found=redact(url),
            todo=f"pip install 'fairtune[{_EXTRAS[dialect]}]'",
        )
    return url


def is_of_a_machine(url: str) -> bool:
    """Tell whether other machines cannot reach the storage: SQLite, or a PostgreSQL of our own."""
    local = url == LOCAL.rstrip(":") or (url.startswith(LOCAL) and len(url) > len(LOCAL))
    return local or normalise(url).startswith("sqlite")


def absolute(url: str) -> str:
    """Return `url` with the path of a file or folder, if it names one, made absolute."""
    for head in (JOURNAL, LOCAL):
        if url.startswith(head) and "://" not in url:
            return f"{head}{Path(url.removeprefix(head)).expanduser().resolve()}"
    if "://" not in url and url != LOCAL.rstrip(":"):
        url = f"sqlite:///{url}"
    file = _SQLITE.fullmatch(url)
    return f"{file['head']}{Path(file['path']).resolve()}{file['tail']}" if file else url
