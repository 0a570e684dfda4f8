"""A PostgreSQL server of one folder: made, started, found, stopped.

It listens on a Unix socket alone, in a folder that only its account can enter, and asks for a
password that stands in a file only that account can read. All of this is done by one process at a
time: whoever calls holds the folder's lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil

from fairtune.config import digest
from fairtune.errors import StorageError
from fairtune.study.storages.programs import Account, find_programs

CONNECTIONS = 300
"""How many a server takes at once."""
USER = "fairtune"
START_SECONDS = 120.0
_STOP_SECONDS = 60.0
_RETRY_SECONDS = 20.0
_LOG_BYTES = 8 * 2**20
# The address of a socket has room for 107 bytes; its name takes 16.
_SOCKET_BYTES = 90
_PLAIN = re.compile(r"/[\w./+~= -]*")
# What is left of a server that was killed goes away by itself.
_PASSING = ("pre-existing shared memory block", "lock file")
_FULL = ("No space left on device", "Check free disk space")
_DETACH = '"$@" >&2 & echo $!'
_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": str(CONNECTIONS),
    "max_parallel_workers_per_gather": "0",
    "log_checkpoints": "off",
    "cluster_name": "fairtune",
}


@dataclass(frozen=True)
class Postmaster:
    """The server of a folder.

    Attributes:
        folder: Holds `data`, `log`, `password`, `server.json` and, where its path is short
            enough, the socket.
        account: Who runs it.
    """

    folder: Path
    account: Account

    @property
    def data(self) -> Path:
        """PostgreSQL's own folder."""
        return self.folder / "data"

    def make(self) -> None:
        """Make the database, unless it is there.

        Raises:
            StorageError: It cannot be made.
        """
        if self.data.is_dir():
            return
        programs = find_programs(self.account)
        new, password = self.folder / "data.new", self.folder / "password"
        shutil.rmtree(new, ignore_errors=True)
        self._write(password, secrets.token_hex(24))
        words = ["-U", USER, "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8"]
        done = subprocess.run(
            self.account.words(programs / "initdb", "-D", new, *words, "--locale=C"),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            raise self._cannot("made", _last_fault(done.stderr) or f"initdb: {done.returncode}")
        new.rename(self.data)

    def start(self) -> None:
        """Start the server, unless it runs, and return when it takes connections.

        Raises:
            StorageError: It cannot be started, or belongs to another machine.
        """
        self._check_host()
        deadline = time.monotonic() + _RETRY_SECONDS
        while not self.runs():
            self._drop_strangers_pid()
            log, size = self._log()
            pid = self._spawn(log)
            if self._becomes_ready(pid):
                return
            with log.open(errors="replace") as said:
                said.seek(size)
                fault = _last_fault(said.read())
            if not any(word in fault for word in _PASSING) or time.monotonic() > deadline:
                raise self._cannot("started", fault)
            time.sleep(0.2)
        if not self._becomes_ready(self.pid() or 0):
            raise self._cannot("started", "it ended while it was being waited for")

    def stop(self) -> None:
        """Stop the server, if it runs, and return when it has ended."""
        pid = self.pid()
        if pid is None or not self.runs():
            return
        try:
            os.kill(pid, signal.SIGINT)
        except OSError:
            return
        deadline = time.monotonic() + _STOP_SECONDS
        while _lives(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        place = self._socket_folder()
        if place.parent != self.folder:
            with contextlib.suppress(OSError):
                place.rmdir()

    def runs(self) -> bool:
        """Tell whether the process that the folder's pid file names is this server."""
        pid = self.pid()
        if pid is None or not _lives(pid):
            return False
        process = psutil.Process(pid)
        try:
            if not process.name().startswith("postgres"):
                return False
            # The folder may have been moved since; a server works in its data folder.
            return Path(process.cwd()).samefile(self.data)
        except psutil.AccessDenied:
            return True
        except (psutil.NoSuchProcess, OSError):
            return False

    def pid(self) -> int | None:
        """Return the process number in the pid file, None where there is none."""
        lines = self._pid_lines()
        return int(lines[0]) if lines and lines[0].isdigit() else None

    def url(self, driver: str) -> str:
        """Return SQLAlchemy's URL of the server, with its password.

        Raises:
            StorageError: The password cannot be read.
        """
        try:
            secret = (self.folder / "password").read_text()
        except OSError as error:
            raise StorageError(
                "the password of the server cannot be read",
                where=self.folder / "password",
                found=error.strerror,
                todo="use the account that began the study, or a database server of your own",
            ) from None
        return f"{driver}://{USER}:{secret}@/postgres?host={quote(str(self._socket_folder()))}"

    # The process

    def _spawn(self, log: Path) -> int:
        """Start the server as a process of nobody, so that it outlives whoever starts it."""
        version = (self.data / "PG_VERSION").read_text().strip()
        program = find_programs(self.account, version) / "postgres"
        place = self._socket_folder()
        place.mkdir(mode=0o700, exist_ok=True)
        self.account.take(place)
        self._write(
            self.folder / "server.json",
            json.dumps({"host": socket.gethostname(), "socket": str(place)}),
        )
        settings = {**_SETTINGS, "unix_socket_directories": str(place)}
        words: list[str | Path] = ["-D", self.data]
        words += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with log.open("ab") as written:
            shell = subprocess.run(
                self.account.words("/bin/sh", "-c", _DETACH, "sh", program, *words),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=written,
                start_new_session=True,
            )
        return int(shell.stdout)

    def _becomes_ready(self, pid: int) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            lines = self._pid_lines()
            if lines[:1] == [str(pid)] and len(lines) > 7 and lines[7].strip() == "ready":
                return True
            if not _lives(pid):
                return False
            time.sleep(0.02)
        raise self._cannot("started", f"it is not ready after {START_SECONDS:.0f} s")

    def _drop_strangers_pid(self) -> None:
        """Remove a pid file of before a reboot whose number another process has by now."""
        pid = self.pid()
        if pid is not None and _lives(pid):
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _check_host(self) -> None:
        stored = self._stored()
        host = stored.get("host")
        if host not in (None, socket.gethostname()) and self._pid_lines():
            raise StorageError(
                "the server of this folder belongs to another machine",
                where=self.folder,
                found=host,
                todo=f"end it there; if '{host}' is no more, remove {self.data}/postmaster.pid. "
                "For workers on several machines use a PostgreSQL server that all reach",
            )

    # Its files

    def _pid_lines(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _stored(self) -> dict[str, str]:
        try:
            stored = json.loads((self.folder / "server.json").read_text())
        except (OSError, ValueError):
            return {}
        return stored if isinstance(stored, dict) else {}

    def _socket_folder(self) -> Path:
        """Return where the socket is: the folder, or one with a short and plain path."""
        inside = self.folder / "socket"
        if len(os.fsencode(inside)) <= _SOCKET_BYTES and _PLAIN.fullmatch(str(inside)):
            return inside
        stored = self._stored().get("socket")
        if stored and Path(stored).parent.is_dir():
            return Path(stored)
        name = f"fairtune-{self.account.uid}-{digest(str(self.folder))[:12]}"
        folder = Path(tempfile.gettempdir()) / name
        return folder if len(os.fsencode(folder)) <= _SOCKET_BYTES else Path("/tmp") / name

    def _log(self) -> tuple[Path, int]:
        log = self.folder / "log"
        size = log.stat().st_size if log.exists() else 0
        if size == 0 or size > _LOG_BYTES:
            self._write(log, "")
            size = 0
        return log, size

    def _write(self, path: Path, text: str) -> None:
        """Write a file that only the account can read."""
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        self.account.take(path)

    def _cannot(self, done: str, fault: str) -> StorageError:
        if any(word in fault for word in _FULL):
            return StorageError(
                "the disk under the storage is full",
                where=self.folder,
                todo="free space and give the same command again",
            )
        return StorageError(
            f"the PostgreSQL of this folder cannot be {done}",
            where=self.folder,
            found=fault,
            todo=f"see what it says and {self.folder / 'log'}, or give --storage another database",
        )


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _last_fault(said: str) -> str:
    """Return the last line of what a program said that names a fault, else the last one."""
    lines = [line for line in said.splitlines() if line.strip()]
    faults = [line for line in lines if re.search(r"FATAL|PANIC|ERROR|error:", line)]
    full = [line for line in lines if any(word in line for word in _FULL)]
    return (full or faults or lines or [""])[-1].strip()[:300]
