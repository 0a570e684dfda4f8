"""A private MariaDB server for tests: real, on loopback, gone with its folder."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from kit_servers import free_port

_INSTALL = ("mariadb-install-db", "mysql_install_db")
_SERVER = ("mariadbd", "mysqld")
_ACCOUNTS = ("mysql", "nobody")
_FOLDERS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
_SECONDS = 60.0


def no_mariadb() -> str | None:
    """Return why there is no MariaDB here, None when there is one."""
    if importlib.util.find_spec("pymysql") is None:
        return "the driver pymysql is not installed (extra `mysql`)"
    if not _program(_SERVER) or not _program(_INSTALL):
        return "no MariaDB: install mariadb-server"
    return None


class MariaDB:
    """A server with the database `study`, made on entry, ended and removed on exit.

    Args:
        options: Further options of the server, as `max_connections=5`.
    """

    def __init__(self, *options: str) -> None:
        # Not below pytest's own folder: that is closed to the account the server has to run as.
        self.home = Path(tempfile.mkdtemp(prefix="fairtune-my-"))
        self.port, self._secret = free_port(), secrets.token_hex(12)
        self._options = [f"--{option}" for option in options]
        self._process: subprocess.Popen[bytes] | None = None
        self._account = _account()
        if self._account:
            os.chown(self.home, self._account["user"], self._account["group"])

    def __enter__(self) -> MariaDB:
        self._run(
            [_program(_INSTALL), "--no-defaults", f"--datadir={self.home / 'data'}",
             "--auth-root-authentication-method=normal", "--skip-test-db"]
        )  # fmt: skip
        first = self.home / "first.sql"
        first.write_text(
            f"CREATE USER 'fairtune'@'%' IDENTIFIED BY '{self._secret}';\n"
            "GRANT ALL ON *.* TO 'fairtune'@'%';\n"
            "CREATE DATABASE study CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;\n"
        )
        self.start(f"--init-file={first}")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def url(self, database: str = "study", secret: str | None = None) -> str:
        """Return the URL of `database`, with another password where one is given."""
        login = f"fairtune:{secret or self._secret}"
        return f"mysql+pymysql://{login}@127.0.0.1:{self.port}/{database}"

    def make(self, database: str) -> str:
        """Make `database` and return its URL."""
        self.ask(f"CREATE DATABASE `{database}` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        return self.url(database)

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Return what the server answers to `statement`."""
        import pymysql

        with contextlib.closing(
            pymysql.connect(
                host="127.0.0.1", port=self.port, user="fairtune", password=self._secret
            )
        ) as connection:
            cursor = connection.cursor()
            cursor.execute(statement)
            return list(cursor.fetchall())

    def start(self, *options: str) -> None:
        """Start the server and return when it takes connections."""
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program(_SERVER) or "", "--no-defaults", f"--datadir={self.home / 'data'}",
                 "--bind-address=127.0.0.1", f"--port={self.port}", "--skip-name-resolve",
                 f"--socket={self.home / 's'}", f"--pid-file={self.home / 'pid'}",
                 "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M",
                 *self._options, *options],
                cwd=self.home, stdout=log, stderr=log, **self._account,
            )  # fmt: skip
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                self.ask("SELECT 1")
                return
            except Exception as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = (self.home / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"MariaDB did not start ({error}):\n{said}") from None
            time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the server, if it runs, and return when it has ended."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(how)
            self._process.wait(timeout=_SECONDS)
            self._process = None

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the server and start it again."""
        self.stop(how)
        self.start()

    def _run(self, command: list[Any]) -> None:
        done = subprocess.run(
            command, cwd=self.home, capture_output=True, text=True, **self._account
        )
        if done.returncode != 0:
            raise RuntimeError(done.stdout + done.stderr)


def _program(names: tuple[str, ...]) -> str | None:
    return next(filter(None, (shutil.which(name, path=_FOLDERS) for name in names)), None)


def _account() -> dict[str, Any]:
    """Return who runs the server, as arguments of Popen: MariaDB refuses root."""
    if os.geteuid() != 0:
        return {}
    entries = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = next(entries[name] for name in _ACCOUNTS if name in entries)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
