"""`fairtune notes` as it is typed: what it prints, what it keeps, and that it quotes no note."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from kit_cli import files, here, process
from kit_endpoints import GENEROUS, wait_for
from kit_notes import (
    MARK,
    PROMPT,
    Chatting,
    Said,
    echoing,
    record_of,
    rows_of,
    table,
    text_model,
    written,
)

COLUMNS = ["--text", "note", "--id", "eye"]


def test_deidentify_says_what_was_replaced_by_what_and_that_nobody_has_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note = f"{MARK}, seen 2021-03-04 by Dr. Jones"
    source = written(
        tmp_path / "n.csv", [["eye", "note", "key"], ["e", note, "k"], ["f", "", "k"]]
    )
    to = tmp_path / "out.csv"
    words = ["notes", "deidentify", source, *COLUMNS, "--to", to]
    more = ["--with", "rules", "--keep-column", "key"]
    code, out, err = here([*words, *more], monkeypatch, capsys)
    assert code == 0, err
    assert rows_of(to) == [
        {"eye": "e", "note": f"{MARK}, seen <DATE> by Dr. <NAME>", "key": "k"},
        {"eye": "f", "note": "", "key": "k"},
    ]
    lines = [line.split() for line in out.splitlines()]
    assert ["rules.date", "DATE", "1"] in lines
    assert "2 notes: something replaced in 1, nothing in 0, 1 empty" in out
    assert "rules does not look for:\n  names without a title" in out
    assert "not touched: column eye, key" in out
    assert "not reviewed" in out
    assert "de-identified" not in out
    assert MARK not in out + err
    code, out, err = here([*words, "--with", "rules"], monkeypatch, capsys)
    assert (code, "is there already" in err) == (2, True)


def test_summarize_asks_an_endpoint_and_says_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, to = table(tmp_path, 4, empty=[1]), tmp_path / "out.csv"
    monkeypatch.setenv("NOTES_TOKEN", "a-very-secret-token")
    with Chatting() as server:
        words = ["notes", "summarize", source, *COLUMNS, "--to", to, "--model", "small"]
        more = ["--endpoint", server.url, "--token-env", "NOTES_TOKEN", "--prompt", PROMPT]
        code, out, err = here([*words, *more, "--dry-run"], monkeypatch, capsys)
        assert code == 0, err
        assert "4 notes: 1 empty, 0 answered, 3 left" in out
        assert (server.asked, to.exists()) == ([], False)
        code, out, err = here([*words, *more, "--leaks-label", "no"], monkeypatch, capsys)
        assert code == 0, err
        assert len(server.asked) == 3
        assert server.asked[0][0]["Authorization"] == "Bearer a-very-secret-token"
    assert "4 notes: 3 summaries, 1 empty notes, 0 empty answers" in out
    assert "text_leaks_label: no" in out
    assert "not reviewed" in out
    assert record_of(to)["text_leaks_label"] == "no"
    assert "secret" not in out + err + json.dumps(record_of(to))
    assert MARK not in out + err


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_summarize_asks_a_model_of_this_machine(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, to = table(tmp_path, 3), tmp_path / "out.csv"
    folder = text_model(tmp_path / "model", kind)
    words = ["notes", "summarize", source, *COLUMNS, "--to", to, "--model", folder]
    more = ["--prompt", PROMPT, "--max-new-tokens", 4, "--temperature", 1]
    code, out, err = here([*words, *more], monkeypatch, capsys)
    assert code == 0, err
    record = record_of(to)
    assert record["model"]["kind"] == "transformers"
    assert record["model"]["name"] == "model"
    assert "model.safetensors" in record["model"]["files"]
    assert len(rows_of(to)) == record["rows"]["all"] == 3
    assert MARK not in out + err + json.dumps(record)
    assert str(tmp_path) not in json.dumps(record)
    first = to.read_bytes()
    code, _, err = here([*words, *more, "--restart"], monkeypatch, capsys)
    assert (code, to.read_bytes()) == (0, first), err


def test_a_mistake_is_one_message_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, to = table(tmp_path, 2), tmp_path / "out.csv"
    twice = written(tmp_path / "twice.csv", [["eye", "note"], ["e", MARK], ["e", MARK]])
    small = ["--model", "small"]
    far = [*small, "--endpoint", "http://127.0.0.1:9"]
    for command, notes, more, what in (
        ("deidentify", source, ["--with", "rulez"], "unknown finder"),
        ("deidentify", twice, ["--with", "rules"], "one identifier together"),
        ("deidentify", source, ["--with", "rules", "--keep-column", "kee"], "did you mean 'key'"),
        ("deidentify", source, ["--with", "rules", "--language", "fr"], "English"),
        ("summarize", source, [*far, "--prompt", "Sum this up"], "place for the note"),
        ("summarize", source, [*far, "--to", source], "its own source"),
        ("summarize", source, [*far, "--retries", 0], "cannot be reached"),
        ("summarize", source, ["--model", "no/such-model"], "no such folder"),
        ("summarize", source, [*small, "--token-env", "X"], "to an endpoint alone"),
        (
            "summarize",
            source,
            [*small, "--endpoint", "http://far/v1", "--token-env", "X"],
            "clear",
        ),
        ("summarize", source, [*small, "--endpoint", "host"], "not a URL"),
        ("summarize", source, [*far, "--token-env", "NO_SUCH"], "is not set"),
        ("summarize", twice, far, "one identifier together"),
    ):
        before = files(tmp_path)
        words = ["notes", command, notes, *COLUMNS, "--to", to, *more]
        code, out, err = here(words, monkeypatch, capsys)
        assert (code, out) == (2, ""), (more, err)
        assert what in err
        assert "Traceback" not in err
        assert MARK not in err
        # An endpoint that does not answer leaves a journal without answers.
        assert files(tmp_path) - before <= {"out.csv.journal"}
        (tmp_path / "out.csv.journal").unlink(missing_ok=True)


@pytest.mark.slow
def test_a_killed_and_a_stopped_command_pay_for_no_note_twice(tmp_path: Path) -> None:
    # Slow: three processes, one of which is killed with a request on its way.
    source, to = table(tmp_path, 9), tmp_path / "out.csv"
    held, gone = threading.Event(), threading.Event()

    def script(number: int, question: str) -> Said:
        if number == 2:
            return echoing(question, 503)
        return Said(held=held if number == 5 else gone if number == 8 else None)

    with Chatting(script) as server:
        words = ["notes", "summarize", source, *COLUMNS, "--to", to, "--model", "small"]
        words += ["--endpoint", server.url, "--prompt", PROMPT]
        first = process(words)
        wait_for(lambda: len(server.asked) == 5)
        os.kill(first.pid, signal.SIGKILL)
        said = [*first.communicate(timeout=GENEROUS)]
        held.set()
        second = process(words)
        wait_for(lambda: len(server.asked) == 8)
        second.send_signal(signal.SIGTERM)
        said += second.communicate(timeout=GENEROUS)
        gone.set()
        assert second.returncode == 130, said[-1]
        assert "the same command goes on" in said[-1]
        assert not to.exists()
        third = process(words)
        said += third.communicate(timeout=GENEROUS)
        assert third.returncode == 0, said[-1]
        # Nine notes, one request made again, and the two that were on their way.
        notes = [question.split("note ")[1][0] for question in server.questions]
        assert notes == [*"0112", "3", "3", "4", "5", "5", "6", "7", "8"]
    assert [row["summary"] for row in rows_of(to)] == [
        f"summary of {i}: pressure {10 + i} mmHg" for i in range(9)
    ]
    assert MARK not in "".join(said)
    assert MARK not in to.with_name("out.csv.json").read_text()
