"""Opening storages: addresses, faults, and what is never shown."""

from __future__ import annotations

import logging
import socket
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from kit_ledger import journal, open_ledger, sqlite

from fairtune.errors import StorageAway, StorageError, StudyError
from fairtune.study.family import study_names
from fairtune.study.ledger import Ledger
from fairtune.study.storages import (
    Opened,
    address,
    engine_of,
    files,
    is_remote,
    normalise,
    open_storage,
    redact,
)
from fairtune.study.storages import opened as opened_module

SECRET = "s3cr:t/@word"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("journal:a/b.log", "journal:a/b.log"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://me:pw@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql+psycopg://me:p%40w@host/db", "postgresql+psycopg://me:***@host/db"),
        (f"postgresql://me:{SECRET}@host/db", "postgresql://me:***@host/db"),
        ("mysql://:pw@host/db?ssl=1", "mysql://:***@host/db?ssl=1"),
        (
            "postgresql://host/db?user=me&password=pw&x=1",
            "postgresql://host/db?user=me&password=***&x=1",
        ),
    ],
)
def test_redact_hides_every_password_and_nothing_else(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_an_address_gets_a_scheme_and_the_driver_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here: set[str] = set()
    monkeypatch.setattr(address.importlib.util, "find_spec", lambda name: name in here or None)
    assert normalise("a/b.db") == "sqlite:///a/b.db"
    assert normalise("journal:x.log") == "journal:x.log"
    assert normalise("sqlite:////a/b.db") == "sqlite:////a/b.db"
    with pytest.raises(StorageError, match="not a storage URL"):
        normalise("a/b.txt")
    with pytest.raises(StorageError, match=r"no driver for postgresql.*[\s\S]*fairtune\[postgres"):
        normalise("postgresql://me:pw@h/d")
    here.add("psycopg2")
    assert normalise("postgres://h/d") == "postgresql+psycopg2://h/d"
    here.add("psycopg")
    assert normalise("postgresql://h/d") == "postgresql+psycopg://h/d"
    assert normalise("postgresql+psycopg2://h/d") == "postgresql+psycopg2://h/d"
    here.add("pymysql")
    assert normalise("mysql://h/d") == "mysql+pymysql://h/d"


def test_without_a_driver_the_password_stays_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StorageError) as caught:
        open_storage(f"postgresql://me:{SECRET}@host/db")
    assert SECRET not in str(caught.value)
    assert "***" in str(caught.value)


@pytest.mark.needs("postgres")
def test_an_unreachable_server_is_one_message_without_the_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StorageError, match="the storage cannot be opened") as caught:
        open_storage("postgresql://me:s3cret@127.0.0.1:1/db")
    said = str(caught.value) + repr(caught.value.__dict__) + caplog.text
    assert "s3cret" not in said
    assert "127.0.0.1:1" in said
    assert caught.value.__suppress_context__


@pytest.mark.needs("postgres")
def test_a_wrong_password_is_not_shown(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = sqlalchemy.make_url(postgres_url).set(password="wr0ng-one")
    with pytest.raises(StorageError) as caught:
        open_storage(url.render_as_string(hide_password=False))
    assert "wr0ng-one" not in str(caught.value) + caplog.text
    assert "password authentication failed" in str(caught.value)


def test_an_open_storage_does_not_show_its_password() -> None:
    opened = Opened(optuna.storages.InMemoryStorage(), "x://me:***@h", ("pw",))
    assert "pw" not in repr(opened)
    assert opened.scrub("login with pw failed") == "login with *** failed"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_study_in_memory_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="lost with its process"):
        open_storage(url)


@pytest.mark.parametrize("make", [sqlite, journal])
def test_a_missing_folder_or_file_is_said(tmp_path: Path, make: Callable[[Path], str]) -> None:
    with pytest.raises(StorageError, match="folder of the storage file does not exist"):
        open_storage(make(tmp_path / "absent"))
    with pytest.raises(StorageError, match="there is no such storage file"):
        open_storage(make(tmp_path), must_exist=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("this is a text file, not a database\n" * 40)
    with pytest.raises(StorageError, match="not a database"):
        open_storage(sqlite(tmp_path))


def test_a_file_that_is_no_journal_is_said(tmp_path: Path) -> None:
    (tmp_path / "study.journal").write_text("this is a text file\n" * 3)
    with pytest.raises(StorageError, match="journal file cannot be read"):
        open_storage(journal(tmp_path))


def test_sqlite_writes_ahead_on_a_local_disk_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mode(path: Path) -> str:
        connection = sqlite3.connect(path)
        try:
            return str(connection.execute("PRAGMA journal_mode").fetchone()[0])
        finally:
            connection.close()

    open_storage(sqlite(tmp_path)).close()
    assert mode(tmp_path / "study.db") == "wal"
    monkeypatch.setattr(files, "is_remote", lambda path: True)
    (tmp_path / "far").mkdir()
    open_storage(sqlite(tmp_path / "far")).close()
    assert mode(tmp_path / "far" / "study.db") == "delete"


def test_a_network_file_system_is_known_by_its_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mount:
        def __init__(self, mountpoint: str, fstype: str) -> None:
            self.mountpoint, self.fstype = mountpoint, fstype

    mounts = [Mount("/", "ext4"), Mount(str(tmp_path), "nfs4"), Mount(f"{tmp_path}/in", "tmpfs")]
    monkeypatch.setattr(files.psutil, "disk_partitions", lambda all: mounts)
    assert is_remote(tmp_path / "a")
    assert not is_remote(tmp_path / "in" / "a")
    assert not is_remote(Path("/elsewhere"))


def test_a_line_that_a_killed_writer_left_is_cut_off(tmp_path: Path) -> None:
    open_ledger(tmp_path).close()
    path = tmp_path / "study.journal"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"worker_id"')
    with open_ledger(tmp_path) as ledger:
        assert path.read_bytes() == whole
        ledger.set_attr("a", 1)
        assert ledger.attrs()["a"] == 1


def test_many_workers_open_a_new_storage_at_once(tmp_path: Path) -> None:
    faults: list[BaseException] = []

    def start() -> None:
        try:
            open_ledger(sqlite(tmp_path)).close()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert study_names(sqlite(tmp_path)) == ["s"]


def test_a_storage_that_is_away_is_asked_again_until_patience_ends(tmp_path: Path) -> None:
    opened = open_storage(sqlite(tmp_path))
    asked: list[int] = []

    def away_twice() -> str:
        asked.append(1)
        if len(asked) < 3:
            raise optuna.exceptions.StorageInternalError("gone")
        return "back"

    def away() -> str:
        raise OSError("gone")

    assert opened.patiently(away_twice, "reading", 10.0) == "back"
    with pytest.raises(StorageError, match="the storage did not answer: reading"):
        opened.patiently(away, "reading", 0.2)
    opened.close()


def test_what_the_database_refuses_is_not_asked_again(tmp_path: Path) -> None:
    opened = open_storage(sqlite(tmp_path))
    engine = engine_of(opened.storage)
    assert engine is not None
    asked: list[int] = []

    def wrong() -> None:
        asked.append(1)
        raise sqlalchemy.exc.ProgrammingError("select", {}, Exception("no such column"))

    with pytest.raises(StorageError, match="no such column"):
        opened.patiently(wrong, "reading", 60.0)
    assert len(asked) == 1
    opened.close()


def test_optuna_says_nothing_by_itself(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    open_ledger(sqlite(tmp_path)).close()
    assert capfd.readouterr() == ("", "")
    assert [r for r in caplog.records if r.name.startswith("optuna")] == []


def test_an_unknown_study_is_answered_with_the_closest(tmp_path: Path) -> None:
    open_ledger(tmp_path, "ham-age").close()
    assert study_names(journal(tmp_path)) == ["ham-age"]
    with pytest.raises(StudyError, match="did you mean 'ham-age'"):
        Ledger.open(journal(tmp_path), "ham-agee")
    with pytest.raises(StudyError, match="not a name of a study"):
        Ledger.open(journal(tmp_path), "ham/age", create=True, directions=["maximize"])


def test_who_leaves_does_not_wait_long_for_a_storage_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened_module, "HURRIED_SECONDS", 0.3)
    opened = open_storage(sqlite(tmp_path))
    told: list[str] = []

    def away() -> str:
        told.append("SIGTERM")
        raise OSError("gone")

    with pytest.raises(StorageError, match="the storage did not answer"):
        opened.patiently(away, "reading", 10_000.0, lambda: told)
    opened.close()


@pytest.mark.needs("postgres")
def test_a_server_that_is_away_is_told_from_one_that_refuses(postgres_url: str) -> None:
    address = sqlalchemy.make_url(postgres_url)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # never listened on: nothing answers there
        nobody = address.set(port=taken.getsockname()[1])
        with pytest.raises(StorageAway):
            open_storage(nobody.render_as_string(hide_password=False))
    for wrong in (address.set(password="other"), address.set(database="none_such")):
        with pytest.raises(StorageError) as caught:
            open_storage(wrong.render_as_string(hide_password=False))
        assert not isinstance(caught.value, StorageAway)
