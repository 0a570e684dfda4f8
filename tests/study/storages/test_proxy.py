"""A proxy before a database, and what its clients see when either is away."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kit_ledger import journal, open_ledger, sqlite

from fairtune.errors import StorageError
from fairtune.study.storages import address, open_storage, proxied
from fairtune.study.storages.postmaster import Postmaster
from fairtune.study.storages.programs import account_for
from fairtune.study.storages.proxy import Proxy

pytestmark = pytest.mark.needs("grpc")
SECONDS = 60.0


@pytest.mark.parametrize("make", [sqlite, journal])
def test_a_file_is_not_served_and_the_reason_is_said(
    tmp_path: Path, make: Callable[[Path], str]
) -> None:
    with pytest.raises(StorageError, match=r"journal file, and SQLite takes one worker"):
        Proxy(make(tmp_path), "127.0.0.1", 0)


@pytest.mark.parametrize(
    "url", ["grpc://", "grpc://host", "grpc://host:x", "grpc://h:70000", "grpc://me:s3cret@h:1"]
)
def test_what_is_no_address_of_a_proxy_is_said(url: str) -> None:
    with pytest.raises(StorageError, match="not the address of a proxy") as told:
        open_storage(url)
    assert "s3cret" not in str(told.value)


def test_where_no_proxy_answers_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxied, "CONNECT_SECONDS", 0.5)
    with pytest.raises(StorageError, match=r"no proxy answers[\s\S]*fairtune proxy"):
        open_storage("grpc://127.0.0.1:1")


def test_without_grpc_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StorageError, match=r"fairtune\[grpc\]"):
        open_storage("grpc://127.0.0.1:1")


@pytest.mark.needs("postgres")
def test_a_port_that_is_taken_is_refused(made: Callable[[], str]) -> None:
    url = made()
    with (
        Proxy(url, "127.0.0.1", 0) as first,
        pytest.raises(StorageError, match="the port cannot be used"),
    ):
        Proxy(url, "127.0.0.1", first.port)


@pytest.mark.needs("postgres")
def test_clients_wait_for_a_proxy_that_is_started_again(made: Callable[[], str]) -> None:
    url = made()
    first = Proxy(url, "127.0.0.1", 0)
    again: list[Proxy] = []
    with open_ledger(f"grpc://127.0.0.1:{first.port}", patience=SECONDS) as ledger:
        ledger.set_attr("a", 1)
        first.close()
        timer = threading.Timer(0.5, lambda: again.append(Proxy(url, "127.0.0.1", first.port)))
        timer.start()
        ledger.set_attr("a", 2)
        assert ledger.attrs()["a"] == 2
        timer.join()
    again[0].close()
    with open_ledger(url) as ledger:
        assert ledger.attrs()["a"] == 2


@pytest.mark.needs("local")
@pytest.mark.slow
def test_a_database_behind_it_that_dies_is_waited_for(outside: Path) -> None:
    # Slow: a database is made, killed and recovered.
    folder = outside / "behind" / "postgres"
    server = Postmaster(folder, account_for(folder))
    with (
        Proxy(f"local:{folder}", "127.0.0.1", 0) as proxy,
        open_ledger(f"grpc://127.0.0.1:{proxy.port}", patience=SECONDS) as ledger,
    ):
        ledger.set_attr("a", 1)
        pid = server.pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + SECONDS
        while server.pid() == pid:  # the process that serves a connection may live a little longer
            assert time.monotonic() < deadline
            ledger.set_attr("a", 2)
        assert ledger.attrs()["a"] == 2
    assert not server.runs()


@pytest.mark.needs("postgres")
def test_what_the_database_refuses_is_told_and_not_asked_again(made: Callable[[], str]) -> None:
    with (
        Proxy(made(), "127.0.0.1", 0) as proxy,
        open_ledger(f"grpc://127.0.0.1:{proxy.port}", patience=SECONDS) as ledger,
        pytest.raises(StorageError, match=r"the proxy refused[\s\S]*INTERNAL"),
    ):
        ledger.set_attr("x" * 600, 1)
