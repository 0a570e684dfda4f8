"""optuna-dashboard on a port of this machine that nobody else can reach."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.artifacts import FileSystemArtifactStore

from fairtune.errors import ConfigError
from fairtune.report.publish import require
from fairtune.study.storages import Opened, open_storage

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")
_REFUSED = (
    b'{"reason": "A study of fairtune is written by its workers alone; here only notes can be '
    b'changed."}'
)

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a page asks every few seconds."""


class Dashboard:
    """A dashboard that runs in a thread of this process until it is closed.

    Args:
        url: Storage.
        artifacts: Folder of the artefacts, None where there is none.
        port: 0 takes a free one.

    Raises:
        ConfigError: optuna-dashboard is not installed, or the port is taken.
        StorageError: The storage cannot be reached.
    """

    def __init__(self, url: str, artifacts: Path | None, port: int = 0) -> None:
        require()
        from optuna_dashboard import wsgi

        self._opened: Opened = open_storage(url, must_exist=True)
        files = None if artifacts is None else FileSystemArtifactStore(artifacts)
        app = guarded(wsgi(self._opened.storage, artifact_store=files))
        try:
            self._server = make_server(HOST, port, app, _Server, _Quiet)
        except OSError as error:
            self._opened.close()
            raise ConfigError(
                "the port cannot be used",
                where="--port",
                found=port,
                allowed=error.strerror,
                todo="leave --port out for a free one",
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where a browser on this machine finds it."""
        return f"http://{HOST}:{self._server.server_port}/dashboard"

    def page(self, study_id: int) -> str:
        """Return the address of the page of a study."""
        return f"{self.address}/studies/{study_id}"

    def wait(self) -> None:
        """Return when the dashboard ends; Ctrl-C gets through."""
        while self._thread.is_alive():
            self._thread.join(1.0)

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._opened.close()

    def __enter__(self) -> Dashboard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def guarded(app: App) -> App:
    """Return `app` for browsers of this machine, to look at studies and to edit notes.

    optuna-dashboard has no log-in, and can rename and delete studies and end trials, which
    workers that run them would not survive. A name other than this machine's means that a page
    from elsewhere asks through the user's browser.
    """

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        host = str(environ.get("HTTP_HOST", "")).split(":")[0]
        method, path = environ["REQUEST_METHOD"], str(environ.get("PATH_INFO", ""))
        reads = method in ("GET", "HEAD", "OPTIONS")
        notes = method == "PUT" and path.rstrip("/").endswith("/note")
        if host in _NAMES and (reads or notes):
            return app(environ, start)
        start("403 Forbidden", [("Content-Type", "application/json")])
        return [_REFUSED]

    return answer
