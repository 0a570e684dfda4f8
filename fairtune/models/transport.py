"""One request to an endpoint: sent once, never redirected, and read no further than it should."""

from __future__ import annotations

import email.utils
import importlib.util
import json
import random
import re
import time
from dataclasses import dataclass
from http.client import responses
from typing import Any
from urllib.parse import unquote, urlsplit

from fairtune.config.settings import proxy_of, secret
from fairtune.errors import ModelError
from fairtune.models.answers import UNREACHED
from fairtune.models.wire import TYPES, Form, shown

LONGEST = 600.0
"""Seconds that an endpoint may ask us to wait; one that asks for more is away."""

_BACKOFF = 60.0
_PIECE, _SHOWN = 65_536, 4096
_CONNECT_SECONDS = 10.0
_PASSING = {408, 425, 429}
_NO_ENTRY = {401, 403, 404, 407, 410}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,60}\Z")


class Fault(Exception):
    """A request without an answer that can be used.

    Args:
        status: For the ledger, in a word or two.
        what: One sentence.
        found: What was found.
        allowed: What would have done.
        todo: What to do about it.
        passing: Whether it may pass: the request is made again.
        away: Whether the endpoint, or our right to ask it, is at fault and not what was asked.
        after: Seconds that the endpoint asks to wait.
        size: Bytes that were received.
    """

    def __init__(
        self,
        status: str,
        what: str,
        found: object = None,
        *,
        allowed: object = None,
        todo: str | None = None,
        passing: bool = False,
        away: bool = False,
        after: float = 0.0,
        size: int = 0,
    ) -> None:
        super().__init__(what)
        self.status, self.what, self.found, self.allowed, self.todo = (
            status,
            what,
            found,
            allowed,
            todo,
        )
        self.passing, self.away, self.after, self.size = passing, away, after, size

    def pause(self, backoff: float, attempt: int) -> float:
        """Return the seconds to wait after the attempt of this number, from 1."""
        wait = min(backoff * 2.0 ** (attempt - 1), _BACKOFF)
        return max(self.after, wait * random.uniform(0.5, 1.5))


@dataclass(frozen=True)
class Words:
    """What a message calls that which the user has written.

    Attributes:
        here: Where it stands.
        token: What names the environment variable with the token.
        late: What to do where no answer comes in time.
        large: What to do where an answer is too large.
        shows: Whether the beginning of what the endpoint says of a fault is shown. Else only the
            name it gives its error is: an endpoint may repeat what it was asked.
    """

    here: str = "loader.http"
    token: str = "loader.http.token_env"
    late: str = "raise loader.http.timeout, or lower batch"
    large: str = "check loader.http.dim and receive"
    shows: bool = True


class Transport:
    """Sends requests to one URL over connections that are kept open.

    Args:
        url: Where to.
        timeout: Seconds for one request, from its first byte to the last of the answer.
        token_env: Environment variable that holds a bearer token.
        words: For messages.
    """

    def __init__(
        self, url: str, timeout: float, token_env: str | None, words: Words | None = None
    ) -> None:
        self.url, self.timeout, self.token_env = url, timeout, token_env
        self._words = words or Words()
        self._pool: Any = None

    def prepare(self) -> None:
        """See that requests can be sent, before the first one is written down.

        Raises:
            ModelError: The library is not installed, or the token not in the environment.
        """
        self._token()
        if self._pool is None:
            self._pool = _pool(self.url, self._words.here)

    def post(self, body: bytes, send: Form, receive: Form, most: int) -> bytes:
        """Return the body of the answer to `body`.

        Args:
            body: What is sent.
            send: Its form.
            receive: Form of the answer.
            most: Bytes that the answer may have.

        Raises:
            Fault: There is none, it is no success, or it is longer.
        """
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        self.prepare()
        end, response = time.monotonic() + self.timeout, None
        connect = min(self.timeout, _CONNECT_SECONDS)
        try:
            response = self._pool.urlopen(
                "POST",
                self.url,
                body=body,
                headers=self._headers(send, receive),
                redirect=False,
                retries=False,
                timeout=Timeout(connect=connect, read=self.timeout),
                preload_content=False,
                decode_content=False,
            )
            if response.status != 200:
                raise self._refusal(response, self._read(response, _SHOWN, end, cut=True))
            answer = self._read(response, most, end)
        except (HTTPError, OSError) as error:
            if response is not None:
                response.close()
            raise self._lost(error) from None
        except BaseException:
            if response is not None:
                response.close()
            raise
        response.release_conn()
        return answer

    def _token(self) -> str | None:
        if self.token_env is None:
            return None
        token = secret(self.token_env)
        if token is None or not (token.isascii() and token.isprintable()):
            raise ModelError(
                "the environment variable with the endpoint's token is "
                + ("not set" if token is None else "no token: it holds other than plain letters"),
                where=f"{self._words.token} ({self.url})",
                found=self.token_env,
                todo=f"set {self.token_env}",
            )
        return token

    def _headers(self, send: Form, receive: Form) -> dict[str, str]:
        token = self._token()
        own = {} if token is None else {"Authorization": f"Bearer {token}"}
        return {
            "Content-Type": TYPES[send],
            "Accept": TYPES[receive],
            "Accept-Encoding": "identity",
            "User-Agent": "fairtune",
            **own,
        }

    def _read(self, response: Any, most: int, end: float, *, cut: bool = False) -> bytes:
        """Return the body, or with `cut` its beginning."""
        parts: list[bytes] = []
        size = 0
        while True:
            # One look at the socket each, so that a slow trickle does not outlast the time.
            piece = response.read1(_PIECE)
            if not piece:
                return b"".join(parts)
            parts.append(piece)
            size += len(piece)
            if size > most:
                if cut:
                    return b"".join(parts)[:most]
                raise Fault(
                    "too large",
                    "the answer is too large",
                    f"more than {most} bytes",
                    todo=self._words.large,
                    size=size,
                )
            if time.monotonic() > end:
                raise self._late(size)

    def _late(self, size: int = 0) -> Fault:
        return Fault(
            "timed out",
            "the endpoint does not answer in time",
            f"nothing whole within {self.timeout:g} s",
            todo=self._words.late,
            passing=True,
            away=True,
            size=size,
        )

    def _lost(self, error: Exception) -> Fault:
        from urllib3 import exceptions as known

        if isinstance(error, known.ReadTimeoutError | TimeoutError):
            return self._late()
        said = self._scrubbed(str(error).rsplit("): ", 1)[-1])
        if isinstance(error, known.SSLError):
            what = "no safe connection to the endpoint can be made"
            return Fault(UNREACHED, what, said, todo="check its certificate", away=True)
        if isinstance(error, known.ConnectTimeoutError | known.ProxyError):
            return Fault(
                UNREACHED,
                "the endpoint cannot be reached",
                said,
                todo="check the URL, and that it runs",
                passing=True,
                away=True,
            )
        what = "the connection broke before the answer was whole"
        said = said if self._words.shows else type(error).__name__
        return Fault("lost", what, said, passing=True, away=True)

    def _refusal(self, response: Any, body: bytes) -> Fault:
        code: int = response.status
        said = shown(body, 200) if self._words.shows else name_of_error(body)
        parts = (f"HTTP {code} {responses.get(code, '')}".strip(), said)
        found = self._scrubbed(": ".join(part for part in parts if part))
        what, todo = "the endpoint refuses the request", None
        if code in (401, 403):
            what, todo = "the endpoint does not let us in", self._key()
        elif 300 <= code < 400:
            target = urlsplit(response.headers.get("Location") or "")
            what, found = "the endpoint sends us elsewhere", f"HTTP {code} to {target.netloc}"
            todo = "write the URL that answers itself: redirects are not followed"
        elif code >= 500 or code in _PASSING:
            what = "the endpoint cannot answer now"
        passing = code >= 500 or code in _PASSING
        return Fault(
            f"http {code}",
            what,
            found,
            todo=todo,
            passing=passing,
            away=passing or code in _NO_ENTRY or code < 400,
            after=_seconds(response.headers.get("Retry-After")) if passing else 0.0,
            size=len(body),
        )

    def _key(self) -> str:
        if self.token_env is None:
            return f"name the environment variable with a token in {self._words.token}"
        return f"check the token in the environment variable {self.token_env}"

    def _scrubbed(self, text: str) -> str:
        token = self._token()
        return text if token is None else text.replace(token, "***")


def _pool(url: str, here: str) -> Any:
    if importlib.util.find_spec("urllib3") is None:
        raise ModelError(
            "the package urllib3 is not installed",
            where=here,
            todo="pip install 'fairtune[http]'",
        )
    import urllib3

    proxy = proxy_of(url)
    if proxy is None:
        return urllib3.PoolManager()
    parts = urlsplit(proxy)
    headers = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers = urllib3.make_headers(proxy_basic_auth=pair)
    host = parts.netloc.rpartition("@")[2]
    return urllib3.ProxyManager(f"{parts.scheme or 'http'}://{host}", proxy_headers=headers)


def name_of_error(body: bytes) -> str:
    """Return the one word by which a JSON body names its error, or the empty string."""
    try:
        error = json.loads(body)["error"]
        names = [error.get(key) for key in ("code", "type")]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return ""
    return next((name for name in names if isinstance(name, str) and _NAME.match(name)), "")


def _seconds(text: str | None) -> float:
    """Return what `Retry-After` says, seconds or a date, in seconds from now; 0 for nonsense."""
    if not text:
        return 0.0
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
