"""Real endpoints: a server of embeddings as a process, one that loses answers, a bad one."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from fairtune.config import parse
from fairtune.models.answers import Answers
from fairtune.models.endpoint import Endpoint
from fairtune.models.loaders.http import Http
from fairtune.models.wire import packed

SIDE, DIM = 32, 64
"""Of `test_vit` as it is served here."""

GENEROUS = 120.0

CLIENT = """
import sys
from pathlib import Path
import numpy as np
from kit_endpoints import images
from fairtune.config.yaml12 import loads
from fairtune.models.answers import Answers
from fairtune.models.endpoint import Endpoint
from fairtune.models.registries import LOADERS
asked = LOADERS.parse(loads(sys.argv[1]).data)
endpoint = Endpoint(asked, Answers(Path(sys.argv[2]), asked.dim))
rows = [int(row) for row in sys.argv[3].split(",")]
found = [endpoint.embed(images(rows[i:i + 20])) for i in range(0, len(rows), 20)]
np.save(sys.argv[4], np.concatenate(found))
"""


def images(rows: Sequence[int], side: int = SIDE) -> NDArray[np.float32]:
    """Return images, each a function of its number alone."""
    draws = [np.random.default_rng(row).random((3, side, side), np.float32) for row in rows]
    return np.stack(draws) if draws else np.empty((0, 3, side, side), np.float32)


def endpoint(url: str, folder: Path, **more: Any) -> Endpoint:
    """Return a client that waits for little, with its answers below `folder`."""
    fields = {"url": url, "version": "1", "dim": DIM, "backoff": 0.01, "timeout": 60, **more}
    asked = parse(Http, fields)
    return Endpoint(asked, Answers(folder / "answers.sqlite", asked.dim))


@contextlib.contextmanager
def served(cache: Path, *words: str, **env: str) -> Iterator[str]:
    """Serve `test_vit` in another process; give the URL."""
    own = {"OMP_NUM_THREADS": "1", "FAIRTUNE_DEVICE": "cpu", "FAIRTUNE_CACHE": str(cache), **env}
    options = ["--weights", "none", "--image-size", str(SIDE), *words]
    child = subprocess.Popen(
        [sys.executable, "-m", "fairtune.cli.app", "serve-embeddings", "test_vit", *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **own},
    )
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        found = re.search(r"http://\S+/embed", line)
        assert found is not None, line + child.stdout.read()
        yield found[0]
    finally:
        child.terminate()
        child.communicate(timeout=GENEROUS)


def health(url: str, token: str | None = None) -> dict[str, Any]:
    """Return what a server says of itself."""
    import json

    code, body = request(url.replace("/embed", "/health"), "GET", token=token)
    assert code == 200, body
    found: dict[str, Any] = json.loads(body)
    return found


def request(
    url: str,
    method: str = "POST",
    body: bytes = b"",
    kind: str = "application/x-npy",
    token: str | None = None,
) -> tuple[int, bytes]:
    """Ask once, by the standard library; return status and body."""
    parts = urlsplit(url)
    link = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=GENEROUS)
    own = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        link.request(method, parts.path, body, {"Content-Type": kind, **own})
        answer = link.getresponse()
        return answer.status, answer.read()
    finally:
        link.close()


def wait_for(what: Callable[[], bool]) -> None:
    """Return when `what` is true."""
    end = time.monotonic() + GENEROUS
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up: here they are meant to."""


def start(server: Quiet) -> None:
    """Let a server answer from threads of its own."""
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()


@dataclass
class Answer:
    """What a scripted server says.

    Attributes:
        code: Status; 0 closes the connection without a word.
        body: The body; None is the right one, zeros for every image.
        headers: Besides the length.
        length: Length that is told, None for the true one.
        held: Waits until this is set.
        trickle: Sends a byte now and then, until the client goes.
    """

    code: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    held: threading.Event | None = None
    trickle: bool = False


class Scripted:
    """A real HTTP server that gives its answers in their order, the last one for ever.

    Attributes:
        asked: Headers and body of every request so far.
    """

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.asked = list(answers), []  # type: ignore[var-annotated]
        self._lock = threading.Lock()
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = script.next(dict(self.headers), body)
                if answer.held is not None:
                    answer.held.wait(GENEROUS)
                if answer.code == 0:
                    cut(self)
                    return
                said = answer.body if answer.body is not None else zeros(body)
                self.send_response(answer.code)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                length = len(said) if answer.length is None else answer.length
                self.send_header("Content-Length", str(length))
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    for i in range(len(said) if answer.trickle else 0):
                        self.wfile.write(said[i : i + 1])
                        time.sleep(0.05)
                    self.wfile.write(said if not answer.trickle else b"")
                self.close_connection = answer.length is not None

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        start(self._server)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/embed"

    def next(self, headers: dict[str, str], body: bytes) -> Answer:
        with self._lock:
            self.asked.append((headers, body))
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def zeros(body: bytes) -> bytes:
    """Return the right answer to images in NumPy's format: a row of zeros for each."""
    import io

    count = len(np.load(io.BytesIO(body), allow_pickle=False))
    return packed(np.zeros((count, DIM), np.float32), "npy", "embeddings")


def cut(handler: BaseHTTPRequestHandler) -> None:
    """Break the connection of a request, as a network does."""
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


class Losing:
    """A proxy before a server that loses answers after the server has done its work.

    Args:
        url: The server.
        lost: Tells by the number of a request, from 1, whether its answer is lost.
        held: Number of a request whose answer is held back until the client has gone.
    """

    def __init__(self, url: str, lost: Callable[[int], bool], held: int | None = None) -> None:
        self.count, self.losses, self.holding = 0, 0, threading.Event()
        self._lock, proxy = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with proxy._lock:
                    proxy.count += 1
                    number = proxy.count
                code, answer = request(url, "POST", body, self.headers["Content-Type"])
                if number == held:
                    proxy.holding.set()
                    self.connection.settimeout(GENEROUS)
                    with contextlib.suppress(ConnectionError):
                        self.connection.recv(1)
                if number == held or lost(number):
                    with proxy._lock:
                        proxy.losses += 1
                    cut(self)
                    return
                self.send_response(code)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/embed"
        start(self._server)

    def __enter__(self) -> Losing:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def client(loader: str, answers: Path, rows: Sequence[int], out: Path) -> subprocess.Popen[str]:
    """Start a process that asks for images by their numbers, 20 at a time, and writes answers."""
    tests = str(Path(__file__).parent)
    path = os.pathsep.join([tests, *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, loader, str(answers), ",".join(map(str, rows)), str(out)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def written(folder: Path, url: str, *, more: str = "", **fields: Any) -> Path:
    """Write the model file of an endpoint below `folder` and return its path."""
    from fairtune.config.yaml12 import dumps

    asked = {"url": url, "version": "1", "dim": DIM, "backoff": 0.01, **fields}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "far.yaml"
    path.write_text(
        "title: A far model\nlicence: MIT\ncitation: nobody\narchitecture: test_vit\n"
        f"image_size: {{default: {SIDE}}}\n{more}{dumps({'loader': {'http': asked}})}"
    )
    return path
