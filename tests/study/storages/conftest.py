"""Every kind of storage, real, for the tests of this room."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kit_ledger import journal, sqlite
from kit_mariadb import MariaDB
from kit_servers import fresh_database

from fairtune.study.storages import open_storage
from fairtune.study.storages.proxy import Proxy

SERVERS = ["postgres", "local", "mariadb", "grpc"]
KINDS = [
    "sqlite",
    "journal",
    pytest.param("postgres", marks=pytest.mark.needs("postgres")),
    # The same laws on servers that take seconds to start.
    pytest.param("local", marks=[pytest.mark.needs("local"), pytest.mark.slow]),
    pytest.param("mariadb", marks=[pytest.mark.needs("mariadb"), pytest.mark.slow]),
    pytest.param(
        "grpc",
        marks=[pytest.mark.needs("postgres"), pytest.mark.needs("grpc"), pytest.mark.slow],
    ),
]


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB; ask for it together with `needs("mariadb")`."""
    with MariaDB() as server:
        yield server


@pytest.fixture(scope="session")
def made(postgres_server: str) -> Iterator[Callable[[], str]]:
    """Makes a PostgreSQL database and returns its URL."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(fresh_database(postgres_server))


@pytest.fixture(scope="session")
def served(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Returns the URL of the session's server of a kind; to make tables takes long."""
    known: dict[str, str] = {}
    ask: Callable[[str], Any] = request.getfixturevalue
    with contextlib.ExitStack() as stack:

        def make(kind: str) -> str:
            match kind:
                case "local":
                    url = f"local:{ask('outside')}/postgres"
                    stack.callback(open_storage(url).close)
                case "mariadb":
                    url = ask("mariadb").url()
                case "grpc":
                    proxy = stack.enter_context(Proxy(ask("made")(), "127.0.0.1", 0))
                    url = f"grpc://127.0.0.1:{proxy.port}"
                case _:
                    url = ask("made")()
            return url

        def serve(kind: str) -> str:
            if kind not in known:
                known[kind] = make(kind)
            return known[kind]

        yield serve


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a storage of each kind, with no study in it."""
    if request.param not in SERVERS:
        yield {"sqlite": sqlite, "journal": journal}[request.param](tmp_path)
        return
    url = request.getfixturevalue("served")(request.param)
    yield url
    opened = open_storage(url)
    for study in opened.storage.get_all_studies():
        opened.storage.delete_study(study._study_id)
    opened.close()
