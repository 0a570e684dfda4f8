"""A text model behind an endpoint that speaks the protocol of OpenAI's chat completions.

Nothing that an endpoint says is shown but the name of its error: servers repeat what they were
asked in their messages, and they were asked about a patient.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, field_validator, model_validator

from fairtune.config import Config
from fairtune.data.notes.journal import Answer
from fairtune.data.notes.summarize import Refused
from fairtune.errors import EndpointAway, ModelError
from fairtune.models.address import check_token, checked
from fairtune.models.transport import LONGEST, Fault, Transport, Words

log = logging.getLogger(__name__)

_PATH = "/chat/completions"
_ROOM, _BYTES_A_TOKEN = 2**20, 256
_THIS_NOTE = {"http 400", "http 413", "http 422"}
_ENDS = ("stop", "length", "content_filter")


class Chat(Config):
    """An endpoint that takes messages at `/v1/chat/completions`, and how it is asked.

    Attributes:
        endpoint: URL, with or without `/chat/completions`; no user, password or key in it.
        model: Name of the model there.
        token_env: Environment variable with a bearer token, which is sent and written nowhere;
            over https or to this machine only.
        max_new_tokens: Most tokens of an answer.
        limit_as: What the endpoint calls that.
        temperature: Of the draws of tokens; 0 for the likeliest.
        seed: Of the draws; endpoints need not heed it.
        timeout: Seconds for one request.
        retries: Times a request is made again that was lost, timed out, or answered by HTTP 408,
            425, 429 or 5xx.
        backoff: Seconds before the first of them, doubled each time, at most a minute, times a
            random number in [0.5, 1.5]; a `Retry-After` that is longer is honoured.
    """

    endpoint: str
    model: Annotated[str, Field(min_length=1)]
    token_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    limit_as: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: Annotated[float, Field(ge=0)] = 0.0
    seed: int = 0
    timeout: Annotated[float, Field(gt=0)] = 120.0
    retries: Annotated[int, Field(ge=0)] = 5
    backoff: Annotated[float, Field(ge=0)] = 0.5

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return checked(value)

    @model_validator(mode="after")
    def _token_is_safe(self) -> Chat:
        check_token(self.endpoint, self.token_env, "endpoint")
        return self

    @property
    def url(self) -> str:
        """Where requests go."""
        parts = urlsplit(self.endpoint)
        path = parts.path.rstrip("/")
        if not path.endswith(_PATH):
            path = (path or "/v1") + _PATH
        return urlunsplit(parts._replace(path=path))

    def build(self) -> ChatModel:
        """Return what asks the endpoint."""
        return ChatModel(self)


class ChatModel:
    """Asks an endpoint about one note at a time.

    Args:
        asked: What it is and how it is asked.
    """

    def __init__(self, asked: Chat) -> None:
        self.asked = asked
        words = Words(
            here="--endpoint",
            token="--token-env",
            late="raise --timeout",
            large="lower --max-new-tokens",
            shows=False,
        )
        self._transport = Transport(asked.url, asked.timeout, asked.token_env, words)

    def chosen(self) -> dict[str, Any]:
        """Return endpoint, model and what it is asked with; never the token."""
        asked = self.asked
        return {
            "kind": "endpoint",
            "endpoint": asked.url,
            "name": asked.model,
            "max_new_tokens": asked.max_new_tokens,
            "limit_as": asked.limit_as,
            "temperature": asked.temperature,
            "seed": asked.seed,
        }

    def prepared(self) -> dict[str, Any]:
        """See that requests can be sent; what stands behind a name of a model is not known.

        Raises:
            ModelError: The token is not in the environment, or urllib3 not installed.
        """
        self._transport.prepare()
        return {}

    def answer(self, note: str, ask: Callable[[str], str], row: int) -> Answer:
        """Return the answer to one note; the request is made again where that may help.

        Raises:
            Refused: The endpoint refuses this request (HTTP 400, 413 or 422).
            EndpointAway: Nothing answers, or not to us.
            ModelError: The answer cannot be used.
        """
        body = json.dumps(self._request(ask(note))).encode()
        most = _ROOM + self.asked.max_new_tokens * _BYTES_A_TOKEN
        for attempt in range(1, self.asked.retries + 2):
            try:
                return _read(self._transport.post(body, "json", "json", most))
            except Fault as fault:
                if not fault.passing or attempt > self.asked.retries or fault.after > LONGEST:
                    raise self._error(fault, attempt) from None
                pause = fault.pause(self.asked.backoff, attempt)
                log.warning(
                    "%s: %s (%s); again in %.1f s", self.asked.url, fault.what, fault.found, pause
                )
            time.sleep(pause)
        raise AssertionError("no attempt was made")

    def _request(self, question: str) -> dict[str, Any]:
        asked = self.asked
        return {
            "model": asked.model,
            "messages": [{"role": "user", "content": question}],
            asked.limit_as: asked.max_new_tokens,
            "temperature": asked.temperature,
            "seed": asked.seed,
            "stream": False,
        }

    def _error(self, fault: Fault, attempt: int) -> Exception:
        if fault.status in _THIS_NOTE:
            return Refused(fault.what, fault.found)
        kind = EndpointAway if fault.away else ModelError
        again = "try again later: answers are kept" if fault.away else None
        if fault.status == "http 404":
            again = "check --endpoint and --model"
        return kind(
            f"{fault.what} (attempt {attempt} of {self.asked.retries + 1})",
            where=self.asked.url,
            found=fault.found,
            allowed=fault.allowed,
            todo=fault.todo or again,
        )


def _read(body: bytes) -> Answer:
    """Return the answer that a body holds.

    Raises:
        Fault: It holds none.
    """
    try:
        found = json.loads(body)
        choice = found["choices"][0]
        text = choice["message"]["content"]
        usage = found.get("usage") or {}
        tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError, OverflowError):
        text, choice, tokens = 0, {}, [0, 0]
    if not isinstance(text, str | None):
        raise Fault(
            "malformed",
            "the answer is no chat completion",
            f"{len(body)} bytes",
            allowed="JSON with choices[0].message.content",
            todo="check the URL in --endpoint",
        )
    ended = choice.get("finish_reason") or "stop"
    return Answer(
        # JSON can hold halves of letters, which no file can.
        (text or "").encode("utf-8", "replace").decode(),
        ended=ended if ended in _ENDS else "other",
        tokens_in=tokens[0],
        tokens_out=tokens[1],
    )
