"""The HTTP side of a server of embeddings: requests in, answers out, nothing of any model."""

from __future__ import annotations

import hmac
import json
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from fairtune.errors import FairtuneError
from fairtune.models.wire import TYPES, Array, Form, packed

EMBED, HEALTH, FIELD = "/embed", "/health", "embeddings"
_IDLE_SECONDS = 120.0


class Refusal(Exception):
    """A request that gets an error for an answer.

    Args:
        code: HTTP status.
        text: Why.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Embedder(Protocol):
    """What answers requests."""

    @property
    def token(self) -> str | None:
        """What a request must say it bears; None lets everybody in."""
        ...

    def health(self) -> dict[str, Any]:
        """Return what it is and what it has done, as JSON values."""
        ...

    def count(self, **more: int) -> None:
        """Add to what it has done."""
        ...

    def limit(self, form: Form) -> int:
        """Return the bytes that the body of a request may have."""
        ...

    def images(self, body: bytes, form: Form) -> Array:
        """Return the images in a body.

        Raises:
            Refusal: It holds none that the model takes.
        """
        ...

    def embed(self, images: Array) -> Array:
        """Return `(n, dim)` embeddings."""
        ...


class Server(ThreadingHTTPServer):
    """Answers in a thread for each connection, by what `served` says."""

    daemon_threads = True
    served: Embedder


class _Server6(Server):
    address_family = socket.AF_INET6


def listen(host: str, port: int, served: Embedder) -> Server:
    """Return a server that holds its port, and answers once it is told to.

    Raises:
        OSError: The port cannot be had.
    """
    made = (_Server6 if ":" in host else Server)((host, port), _Handler)
    made.served = served
    return made


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    # Head and body are two packets, and the second must not wait for word of the first.
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        self._answering(self._health)

    def do_POST(self) -> None:
        self._answering(self._embed)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: `GET /health` counts."""

    def _answering(self, answer: Callable[[], None]) -> None:
        try:
            self._let_in()
            answer()
        except Refusal as refusal:
            self.server.served.count(refused=1)
            # What is left of the body must not be read as the next request.
            self.close_connection = True
            self._send(refusal.code, json.dumps({"error": refusal.text}).encode(), "json")
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except FairtuneError as error:
            self.close_connection = True
            self._send(503, json.dumps({"error": error.what}).encode(), "json")

    def _let_in(self) -> None:
        token = self.server.served.token
        said, wanted = self.headers.get("Authorization") or "", f"Bearer {token}"
        if token is not None and not hmac.compare_digest(said.encode(), wanted.encode()):
            raise Refusal(401, "this server wants a bearer token")

    def _health(self) -> None:
        if self.path != HEALTH:
            raise Refusal(404, f"there is GET {HEALTH} and POST {EMBED}")
        self._send(200, json.dumps(self.server.served.health()).encode(), "json")

    def _embed(self) -> None:
        served = self.server.served
        if self.path != EMBED:
            raise Refusal(404, f"there is GET {HEALTH} and POST {EMBED}")
        images = served.images(*self._body())
        served.count(received=1, images=len(images))
        found = served.embed(images)
        receive: Form = "json" if "json" in (self.headers.get("Accept") or "") else "npy"
        self._send(200, packed(found, receive, FIELD), receive)
        served.count(answered=1)

    def _body(self) -> tuple[bytes, Form]:
        kind = (self.headers.get("Content-Type") or "").split(";")[0].strip().lower()
        forms: dict[str, Form] = {name: form for form, name in TYPES.items()}
        if kind not in forms:
            raise Refusal(415, f"the body is {kind or 'of no type'}, and not one of {list(forms)}")
        length = self.headers.get("Content-Length") or ""
        if not length.isdecimal():
            raise Refusal(411, "the request does not say how long it is")
        most = self.server.served.limit(forms[kind])
        if int(length) > most:
            raise Refusal(413, f"{length} bytes, and at most {most} are taken at once")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionAbortedError
        return body, forms[kind]

    def _send(self, code: int, body: bytes, form: Form) -> None:
        self.send_response(code)
        self.send_header("Content-Type", TYPES[form])
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
