"""The client of an endpoint, against real servers that lose, refuse and spoil answers."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit_endpoints import (
    DIM,
    GENEROUS,
    SIDE,
    Answer,
    Losing,
    Scripted,
    client,
    endpoint,
    health,
    images,
    served,
    wait_for,
)

from fairtune.data.batch import normalise
from fairtune.errors import EndpointAway, Interrupted, ModelError, StorageError
from fairtune.models import load
from fairtune.models.answers import Answers, Counts
from fairtune.models.backbone import build
from fairtune.models.transport import _seconds


def npy(array: Any) -> bytes:
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("server")) as url:
        yield url


def right(rows: list[int]) -> np.ndarray[Any, Any]:
    spec = load("test_vit")
    with torch.inference_mode():
        seen = normalise(torch.from_numpy(images(rows)), spec.mean, spec.std)
        return build(spec, SIDE, None).embed(seen).numpy()


@pytest.mark.slow
def test_the_ledger_equals_the_count_of_a_server_whose_answers_are_lost(
    server: str, tmp_path: Path
) -> None:
    # Slow: the server is a process with a real model.
    before, rows = health(server), list(range(400))
    with Losing(server, lambda number: number % 10 == 0) as proxy:
        one = endpoint(proxy.url, tmp_path, batch=8)
        found = np.concatenate([one.embed(images(rows[i : i + 40])) for i in range(0, 400, 40)])
        twice = one.embed(images([3, 3, 399]))
    after, counts = health(server), one.answers.counts()
    assert proxy.losses == proxy.count // 10 == 5
    assert counts.requests == after["received"] - before["received"] == proxy.count == 55
    assert counts.sent == after["images"] - before["images"] == 400 + 5 * 8
    assert (counts.answered, counts.served) == (400, 3)
    np.testing.assert_allclose(found, right(rows), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(twice, found[[3, 3, 399]])


@pytest.mark.slow
def test_a_killed_client_goes_on_and_pays_for_nothing_twice(server: str, tmp_path: Path) -> None:
    # Slow: a server and two clients are processes of their own.
    before, rows = health(server), list(range(1000, 1100))
    with Losing(server, lambda number: False, held=8) as proxy:
        loader = f"{{http: {{url: '{proxy.url}', version: '1', dim: {DIM}, batch: 10}}}}"
        file = tmp_path / "answers.sqlite"
        first = client(loader, file, rows, tmp_path / "never.npy")
        assert proxy.holding.wait(GENEROUS)
        os.kill(first.pid, signal.SIGKILL)
        first.communicate(timeout=GENEROUS)
        kept = Answers(file, DIM)
        assert kept.counts() == Counts(requests=8, sent=80, answered=70, served=0)
        second = client(loader, file, rows, tmp_path / "found.npy")
        _, said = second.communicate(timeout=GENEROUS)
        assert second.returncode == 0, said
    after, counts = health(server), kept.counts()
    assert after["images"] - before["images"] == len(rows) + 10 == counts.sent
    assert after["received"] - before["received"] == counts.requests == 11
    assert (counts.answered, counts.served) == (100, 70)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), right(rows), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_processes_that_share_answers_ask_for_no_image_twice(server: str, tmp_path: Path) -> None:
    # Slow: a server and three clients are processes of their own.
    before, rows = health(server), list(range(2000, 2120))
    loader = f"{{http: {{url: '{server}', version: '1', dim: {DIM}, batch: 4}}}}"
    file, orders = tmp_path / "answers.sqlite", [rows, rows[::-1], rows[60:] + rows[:60]]
    crew = [client(loader, file, r, tmp_path / f"{i}.npy") for i, r in enumerate(orders)]
    for one in crew:
        _, said = one.communicate(timeout=GENEROUS)
        assert one.returncode == 0, said
    counts = Answers(file, DIM).counts()
    assert health(server)["images"] - before["images"] == counts.sent == counts.answered == 120
    assert counts.served == 2 * 120
    expected = right(rows)
    for i, order in enumerate(orders):
        found = np.load(tmp_path / f"{i}.npy")[np.argsort(order)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("receive", ["npy", "json"])
@pytest.mark.parametrize("pixels", ["float32", "uint8"])
@pytest.mark.parametrize("send", ["npy", "json"])
@pytest.mark.slow
def test_all_forms_give_the_same(
    server: str, tmp_path: Path, send: str, pixels: str, receive: str
) -> None:
    # Slow: the first of them starts the server.
    shown = np.round(images([7, 8]) * 255).astype(np.uint8)
    sent = shown if pixels == "uint8" else (shown.astype(np.float32) / np.float32(255))
    found = endpoint(server, tmp_path, send=send, receive=receive).embed(sent)
    spec = load("test_vit")
    with torch.inference_mode():
        seen = normalise(torch.from_numpy(shown), spec.mean, spec.std)
        expected = build(spec, SIDE, None).embed(seen).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


BAD = {
    "shape": (Answer(body=npy(np.zeros((2, DIM + 1), np.float32))), "has another shape"),
    "flat": (Answer(body=npy(np.zeros(2 * DIM, np.float32))), "has another shape"),
    "half": (Answer(body=npy(np.zeros((1, DIM), np.float32))), "half an answer"),
    "whole numbers": (Answer(body=npy(np.zeros((2, DIM), np.int64))), "floating point"),
    "objects": (Answer(body=npy(np.array([{}, {}]))), "does not hold numbers"),
    "words": (Answer(body=npy(np.array(["a", "b"]))), "does not hold numbers"),
    "nan": (Answer(body=npy(np.full((2, DIM), np.nan, np.float32))), "not finite"),
    "inf": (Answer(body=npy(np.full((2, DIM), 1e300))), "not finite"),
    "html": (Answer(body=b"<html>log in</html>"), "no array in NumPy's format"),
    "empty": (Answer(body=b""), "no array in NumPy's format"),
    "cut": (Answer(body=npy(np.zeros((2, DIM), np.float32))[:-8]), "cut off"),
    "bomb": (
        Answer(body=npy(np.zeros((2, DIM), np.float32)).replace(b"(2, 64)", b"(2, 10**12)"[:7])),
        "NumPy's format",
    ),
    "large": (Answer(body=b"x" * 200_000), "too large"),
    "bad request": (Answer(code=400, body=b"wrong size"), "wrong size"),
    "too many": (Answer(code=413), "HTTP 413"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_answer_that_cannot_be_used_is_one_error_and_not_asked_for_again(
    name: str, tmp_path: Path
) -> None:
    answer, said = BAD[name]
    with Scripted(answer) as script:
        one = endpoint(script.url, tmp_path)
        with pytest.raises(ModelError) as caught:
            one.embed(images([1, 2]))
        assert not isinstance(caught.value, EndpointAway)
        assert said in str(caught.value)
        assert script.url in str(caught.value)
        assert "attempt 1 of 6" in str(caught.value)
        assert len(script.asked) == 1
        assert one.answers.counts() == Counts(1, 2, 0, 0)


BAD_JSON = {
    "cut": (b'{"embeddings": [[1.0', "no JSON"),
    "list": (b"[[1.0]]", "no field 'embeddings'"),
    "field": (b'{"features": [[1.0]]}', "features"),
    "ragged": (b'{"embeddings": [[1.0], [1.0, 2.0]]}', "different lengths"),
    "words": (b'{"embeddings": [["a"], ["b"]]}', "something else than numbers"),
    "null": (b'{"embeddings": [[null, 1], [1, 2]]}', "something else than numbers"),
    "truth": (b'{"embeddings": [[true], [false]]}', "something else than numbers"),
    "nan": (json.dumps({"embeddings": [[float("nan")] * DIM] * 2}).encode(), "not finite"),
    "huge": (
        json.dumps({"embeddings": [[10**400] * DIM] * 2}).encode(),
        "something else than numbers",
    ),
    "deep": (b"[" * 30_000, "no JSON"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_json_that_cannot_be_used_is_one_error(name: str, tmp_path: Path) -> None:
    body, said = BAD_JSON[name]
    with Scripted(Answer(body=body)) as script, pytest.raises(ModelError) as caught:
        endpoint(script.url, tmp_path, receive="json").embed(images([1, 2]))
    assert said in str(caught.value)


AWAY = {
    "cut": (Answer(code=0), "connection broke", "lost"),
    "half": (Answer(length=10_000), "connection broke", "lost"),
    "busy": (Answer(code=429), "HTTP 429", "http 429"),
    "error": (Answer(code=500, body=b"out of memory"), "out of memory", "http 500"),
    "down": (Answer(code=503), "HTTP 503", "http 503"),
}


@pytest.mark.parametrize("name", AWAY)
def test_what_may_pass_is_asked_again_and_then_given_up(name: str, tmp_path: Path) -> None:
    answer, said, status = AWAY[name]
    with Scripted(answer) as script:
        one = endpoint(script.url, tmp_path, retries=2)
        with pytest.raises(EndpointAway) as caught:
            one.embed(images([1]))
        assert len(script.asked) == 3
    assert said in str(caught.value)
    assert "attempt 3 of 3" in str(caught.value)
    assert one.answers.counts() == Counts(3, 3, 0, 0)
    with sqlite3.connect(one.answers.path) as db:
        assert {row for (row,) in db.execute("SELECT status FROM request")} == {status}
    db.close()


@pytest.mark.parametrize("name", AWAY)
def test_what_passes_is_answered(name: str, tmp_path: Path) -> None:
    with Scripted(AWAY[name][0], Answer()) as script:
        one = endpoint(script.url, tmp_path)
        assert one.embed(images([1, 2])).shape == (2, DIM)
    assert one.answers.counts() == Counts(2, 4, 2, 0)


def test_an_endpoint_that_is_slow_is_asked_again(tmp_path: Path) -> None:
    gate = threading.Event()
    with Scripted(Answer(held=gate), Answer()) as script:
        one = endpoint(script.url, tmp_path, timeout=0.2)
        assert one.embed(images([1])).shape == (1, DIM)
        gate.set()
    with sqlite3.connect(one.answers.path) as db:
        found = [row for (row,) in db.execute("SELECT status FROM request ORDER BY number")]
    db.close()
    assert found == ["timed out", "answered"]


def test_an_answer_that_trickles_does_not_outlast_the_time(tmp_path: Path) -> None:
    with Scripted(Answer(trickle=True)) as script:
        one = endpoint(script.url, tmp_path, timeout=0.3, retries=0)
        with pytest.raises(EndpointAway, match="in time"):
            one.embed(images([1]))


def test_nobody_there_is_no_request(tmp_path: Path) -> None:
    with Scripted(Answer()) as script:
        url = script.url
    one = endpoint(url, tmp_path, retries=1)
    with pytest.raises(EndpointAway, match="cannot be reached") as caught:
        one.embed(images([1]))
    assert "refused" in str(caught.value)
    assert one.answers.counts() == Counts(0, 0, 0, 0)


@pytest.mark.parametrize("code", [401, 403])
def test_who_is_not_let_in_is_told_of_the_token_at_once(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "a-secret-of-the-tests")
    said = b"no such token: a-secret-of-the-tests"
    for env, todo in (({}, "loader.http.token_env"), ({"token_env": "MY_TOKEN"}, "MY_TOKEN")):
        with Scripted(Answer(code=code, body=said)) as script:
            with pytest.raises(EndpointAway) as caught:
                endpoint(script.url, tmp_path, **env).embed(images([1]))
            assert len(script.asked) == 1
        assert todo in str(caught.value)
    assert "a-secret" not in str(caught.value)
    assert script.asked[0][0]["Authorization"] == "Bearer a-secret-of-the-tests"
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"a-secret" not in kept


@pytest.mark.parametrize("value", [None, "", "two\nlines", "ümlaut"])
def test_a_token_that_is_not_there_is_said_before_anything_is_sent(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_TOKEN", value)
    with Scripted(Answer()) as script:
        one = endpoint(script.url, tmp_path, token_env="MY_TOKEN")
        with pytest.raises(ModelError, match="MY_TOKEN"):
            one.embed(images([1]))
        assert not script.asked
    assert one.answers.counts() == Counts(0, 0, 0, 0)


def test_no_redirect_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "a-secret-of-the-tests")
    with Scripted(Answer()) as other:
        there = Answer(code=307, headers={"Location": f"{other.url}?key=a-secret"})
        with Scripted(there) as script, pytest.raises(EndpointAway) as caught:
            endpoint(script.url, tmp_path, token_env="MY_TOKEN").embed(images([1]))
        assert not other.asked
    assert "HTTP 307 to 127.0.0.1:" in str(caught.value)
    assert "a-secret" not in str(caught.value)


def test_a_wait_that_is_asked_for_is_honoured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Scripted(Answer(code=429, headers={"Retry-After": "1"}), Answer()) as script:
        began = time.monotonic()
        with caplog.at_level(logging.WARNING):
            endpoint(script.url, tmp_path).embed(images([1]))
        assert time.monotonic() - began >= 1
    assert "again in 1.0 s" in caplog.text
    with Scripted(Answer(code=503, headers={"Retry-After": "7200"})) as script:
        with pytest.raises(EndpointAway, match="attempt 1 of 6"):
            endpoint(script.url, tmp_path).embed(images([2]))
        assert len(script.asked) == 1


@pytest.mark.parametrize("text", ["", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "-5"])
def test_nonsense_of_a_wait_is_none(text: str) -> None:
    assert _seconds(text) == 0.0


def test_a_wait_until_a_date_is_read() -> None:
    from email.utils import formatdate

    assert 50 < _seconds(formatdate(time.time() + 60, usegmt=True)) <= 60


def test_who_waits_leaves_when_told(tmp_path: Path) -> None:
    with Scripted(Answer(code=503, headers={"Retry-After": "300"})) as script:
        one = endpoint(script.url, tmp_path)
        one.poll = lambda: "Ctrl-C" if script.asked else None
        with pytest.raises(Interrupted) as caught:
            one.embed(images([1]))
    assert caught.value.found == "Ctrl-C"
    # What it has taken on is free for the next one.
    assert one.answers.take_on([b"x"], 1, 1.0) == [b"x"]
    with sqlite3.connect(one.answers.path) as db:
        assert db.execute("SELECT image FROM asked").fetchall() == [(b"x",)]
    db.close()


def test_between_two_requests_it_leaves_when_told(tmp_path: Path) -> None:
    with Scripted(Answer()) as script:
        one = endpoint(script.url, tmp_path, batch=1)
        one.poll = lambda: "Ctrl-C" if len(script.asked) == 2 else None
        with pytest.raises(Interrupted):
            one.embed(images(range(5)))
    assert one.answers.counts() == Counts(2, 2, 2, 0)


def test_requests_keep_to_a_rate(tmp_path: Path) -> None:
    with Scripted(Answer()) as script:
        one = endpoint(script.url, tmp_path, batch=1, per_second=20)
        began = time.monotonic()
        one.embed(images(range(5)))
        assert time.monotonic() - began >= 4 / 20
        assert len(script.asked) == 5


def test_only_what_is_not_known_is_sent(tmp_path: Path) -> None:
    with Scripted(Answer()) as script:
        one = endpoint(script.url, tmp_path)
        one.embed(images([1, 1, 2]))
        one.embed(images([2, 3, 1]))
        sent = [len(np.load(io.BytesIO(body))) for _, body in script.asked]
        assert sent == [2, 1]
        assert one.embed(images([])).shape == (0, DIM)
    assert one.answers.counts() == Counts(requests=2, sent=3, answered=3, served=3)
    assert one.answers.counts(here=True) == one.answers.counts()


def test_what_was_answered_before_a_fault_is_kept(tmp_path: Path) -> None:
    with Scripted(Answer(), Answer(), Answer(code=400)) as script:
        one = endpoint(script.url, tmp_path, batch=2)
        with pytest.raises(ModelError):
            one.embed(images(range(6)))
    assert one.answers.counts() == Counts(3, 6, 4, 0)
    with Scripted(Answer()) as script:
        again = endpoint(script.url, tmp_path, batch=2)
        again.embed(images(range(6)))
        assert len(script.asked) == 1


def test_a_process_waits_for_another_ones_request(tmp_path: Path) -> None:
    gate = threading.Event()
    with Scripted(Answer(held=gate), Answer()) as script:
        first, second = (endpoint(script.url, tmp_path) for _ in range(2))
        asker = threading.Thread(target=lambda: first.embed(images([1])))
        asker.start()
        wait_for(lambda: len(script.asked) == 1)
        waiter = threading.Thread(target=lambda: second.embed(images([1, 2])))
        waiter.start()
        wait_for(lambda: len(script.asked) == 2)
        gate.set()
        asker.join(GENEROUS)
        waiter.join(GENEROUS)
        sent = [len(np.load(io.BytesIO(body))) for _, body in script.asked]
    assert sent == [1, 1]


def test_what_a_dead_process_was_asking_for_is_free(tmp_path: Path) -> None:
    held = Answers(tmp_path / "answers.sqlite", DIM)
    alive, held.process = held.process, f"{held.process.rsplit(':', 2)[0]}:999999999:1.00"
    assert held.take_on([b"a"], 1, 3600.0) == [b"a"]
    held.process = alive
    assert held.take_on([b"a"], 1, 3600.0) == [b"a"]
    assert held.take_on([b"a"], 1, 3600.0) == []


def test_a_file_that_is_no_database_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "answers.sqlite").write_bytes(b"something else" * 1000)
    with pytest.raises(StorageError, match="not a database") as caught:
        Answers(tmp_path / "answers.sqlite", DIM)
    assert "moved away" in str(caught.value)


def test_an_answer_of_another_length_is_not_taken(tmp_path: Path) -> None:
    with Scripted(Answer()) as script:
        endpoint(script.url, tmp_path).embed(images([1]))
    wrong = Answers(tmp_path / "answers.sqlite", DIM + 1)
    with sqlite3.connect(wrong.path) as db:
        (key,) = db.execute("SELECT image FROM answer").fetchone()
    db.close()
    with pytest.raises(StorageError, match="damaged"):
        wrong.find([key])
