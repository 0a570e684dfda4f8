"""The client of chat completions, against a real server that errs, breaks off and repeats."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

import pytest
from kit_endpoints import GENEROUS
from kit_notes import MARK, Chatting, Said, Script, echoing

from fairtune.config import parse
from fairtune.data.notes.journal import Answer
from fairtune.data.notes.summarize import Refused
from fairtune.errors import EndpointAway, FairtuneError, ModelError
from fairtune.models.chat import Chat, ChatModel

NOTE = f"{MARK} note 7: pressure 17"


def model(url: str, **more: Any) -> ChatModel:
    fields = {"endpoint": url, "model": "small", "backoff": 0.01, "timeout": 60.0, **more}
    return parse(Chat, fields).build()


def answer(server: Chatting, **more: Any) -> Answer:
    return model(server.url, **more).answer(NOTE, lambda note: f"Sum up: {note}", 0)


def test_a_request_holds_what_the_protocol_asks_for_and_nothing_else() -> None:
    with Chatting() as server:
        found = answer(server, temperature=0.5, seed=3, max_new_tokens=9)
        assert server.paths == ["/v1/chat/completions"]
        headers, body = server.asked[0]
    assert found == Answer("summary of 7: pressure 17", "stop", False, 7, 3)
    assert body == {
        "model": "small",
        "messages": [{"role": "user", "content": f"Sum up: {NOTE}"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 3,
        "stream": False,
    }
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("http://127.0.0.1:1", "http://127.0.0.1:1/v1/chat/completions"),
        ("http://127.0.0.1:1/", "http://127.0.0.1:1/v1/chat/completions"),
        ("https://host/v1/", "https://host/v1/chat/completions"),
        ("https://host/a/chat/completions?version=2", "https://host/a/chat/completions?version=2"),
    ],
)
def test_an_endpoint_may_be_written_in_several_ways(given: str, asked: str) -> None:
    assert parse(Chat, {"endpoint": given, "model": "small"}).url == asked


def test_a_newer_server_is_told_the_limit_by_its_own_name() -> None:
    with Chatting() as server:
        answer(server, limit_as="max_completion_tokens", max_new_tokens=5)
        assert server.asked[0][1]["max_completion_tokens"] == 5
        assert "max_tokens" not in server.asked[0][1]


def test_what_may_pass_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    def script(number: int, question: str) -> Said:
        if number == 1:
            return Said(code=0)
        if number == 2:
            return Said(code=429, headers={"Retry-After": "0"})
        return echoing(question, code=503) if number == 3 else Said()

    with Chatting(script) as server, caplog.at_level(logging.WARNING):
        assert answer(server).ended == "stop"
        assert len(server.asked) == 4
    assert len(caplog.records) == 3
    assert "context_length_exceeded" in caplog.text
    assert MARK not in caplog.text


def test_an_endpoint_that_asks_for_too_long_a_wait_is_away() -> None:
    with Chatting(lambda n, q: Said(code=429, headers={"Retry-After": "86400"})) as server:
        with pytest.raises(EndpointAway, match="cannot answer now"):
            answer(server)
        assert len(server.asked) == 1


def test_an_endpoint_that_never_answers_is_given_up() -> None:
    held = threading.Event()
    with Chatting(lambda n, q: Said(held=held)) as server:
        with pytest.raises(EndpointAway, match="in time") as raised:
            answer(server, timeout=0.2, retries=1)
        held.set()
        assert len(server.asked) == 2
    assert raised.value.todo == "raise --timeout"


def body_of(found: object) -> Script:
    return lambda n, q: Said(body=json.dumps(found).encode())


FAULTS: dict[str, tuple[Script, type[Exception], str]] = {
    "bad request": (lambda n, q: echoing(q), Refused, "refuses the request"),
    "unprocessable": (lambda n, q: echoing(q, 422), Refused, "refuses the request"),
    "no entry": (lambda n, q: echoing(q, 401), EndpointAway, "does not let us in"),
    "no model": (lambda n, q: echoing(q, 404), EndpointAway, "refuses the request"),
    "elsewhere": (
        lambda n, q: Said(code=302, headers={"Location": "http://x/"}, body=q.encode()),
        EndpointAway,
        "sends us elsewhere",
    ),
    "page": (lambda n, q: Said(body=f"<html>{q}".encode()), ModelError, "no chat completion"),
    "list": (lambda n, q: Said(body=json.dumps([q]).encode()), ModelError, "no chat completion"),
    "no choice": (body_of({"choices": []}), ModelError, "no chat completion"),
    "parts": (
        body_of({"choices": [{"message": {"content": [{"text": "x"}]}}]}),
        ModelError,
        "no chat completion",
    ),
    "endless": (
        body_of({"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1e999}}),
        ModelError,
        "no chat completion",
    ),
    "huge": (lambda n, q: Said(body=b" " * (2**20 + 300)), ModelError, "too large"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_without_a_word_of_the_note(name: str) -> None:
    script, kind, what = FAULTS[name]
    with Chatting(script) as server:
        with pytest.raises(kind, match=what) as raised:
            answer(server, max_new_tokens=1, retries=1)
        assert len(server.asked) == 1
    error = raised.value
    found = error.found if isinstance(error, Refused | FairtuneError) else ""
    assert MARK not in f"{error} {found}"
    assert error.__suppress_context__


def test_a_server_that_speaks_no_http_is_not_quoted() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def speak() -> None:
            link, _ = listening.accept()
            with link:
                link.recv(65536)
                link.sendall(f"{MARK} is what I was asked\r\n\r\n".encode())

        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        one = model(f"http://127.0.0.1:{listening.getsockname()[1]}", retries=0)
        with pytest.raises(EndpointAway, match="connection broke") as raised:
            one.answer(NOTE, str, 0)
        speaker.join(GENEROUS)
    assert MARK not in str(raised.value)


def test_odd_answers_become_plain_ones() -> None:
    body = b'{"choices": [{"message": {"content": "half \\ud83d"}, "finish_reason": "%s"}]}'
    with Chatting(lambda n, q: Said(body=body % (b"length" if n == 1 else q.encode()))) as server:
        one, two = answer(server), answer(server)
    assert (one.text, one.ended, two.ended) == ("half ?", "length", "other")
    with Chatting(body_of({"choices": [{"message": {"content": None}}]})) as server:
        assert answer(server) == Answer("", "stop")


def test_a_token_is_sent_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTES_TOKEN", "a-very-secret-token")
    body = json.dumps({"error": {"code": "a-very-secret-token"}}).encode()
    with Chatting(lambda n, q: Said(code=403, body=body)) as server:
        one = model(server.url, token_env="NOTES_TOKEN")
        with pytest.raises(EndpointAway, match="does not let us in") as raised:
            one.answer(NOTE, str, 0)
        assert server.asked[0][0]["Authorization"] == "Bearer a-very-secret-token"
    assert "secret" not in f"{raised.value}{one.chosen()}"
    monkeypatch.delenv("NOTES_TOKEN")
    with pytest.raises(ModelError, match="is not set") as unset:
        one.prepared()
    assert "--token-env" in str(unset.value)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"endpoint": "ftp://host"}, "not a URL of an endpoint"),
        ({"endpoint": "https://me:word@host/v1"}, "no user and password"),
        ({"endpoint": "https://host/v1?api_key=word"}, "no key or password"),
        ({"endpoint": "http://host/v1", "token_env": "X"}, "in the clear"),
        ({"endpoint": "https://host/v1", "model": ""}, "model"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(fields: dict[str, str], what: str) -> None:
    with pytest.raises(FairtuneError, match=what) as raised:
        parse(Chat, {"model": "small", **fields})
    assert "word" not in str(raised.value).replace("no user and password", "").replace(
        "no key or password", ""
    )
