"""Summaries row by row: what is asked, what is kept, what is refused, and what is told."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import hypothesis
import pytest
from hypothesis import strategies as st
from kit_notes import MARK, PROMPT, Chatting, Said, echoing, record_of, rows_of, table, written

from fairtune.config import parse
from fairtune.data.notes.journal import Answer, Journal, alone
from fairtune.data.notes.prompt import DEFAULT, Prompt, read_prompt, shortened
from fairtune.data.notes.summarize import Asked, Plan, journal_path, plan, summarize
from fairtune.data.notes.table import read_notes
from fairtune.errors import ConfigError, DataError, EndpointAway, FairtuneError, StorageError
from fairtune.models.chat import Chat, ChatModel

ASKED = Asked(Prompt(PROMPT))


def model(server: Chatting, **more: Any) -> ChatModel:
    fields = {"endpoint": server.url, "model": "small", "backoff": 0.0, "retries": 0, **more}
    return parse(Chat, fields).build()


def run(server: Chatting, source: Path, asked: Asked = ASKED, **more: Any) -> dict[str, Any]:
    """Summarise `source` into `out.csv` beside it."""
    own = {name: more.pop(name) for name in ("restart", "told") if name in more}
    notes = read_notes(source, "note", "eye", ["key"])
    return summarize(notes, model(server, **more), asked, source.with_name("out.csv"), **own)


def from_(first: int, said: Callable[[str], Said]) -> Callable[[int, str], Said]:
    """Answer as asked up to a request, and with `said` from then on."""
    return lambda number, question: Said() if number < first else said(question)


def test_every_note_is_asked_about_once_and_the_record_says_how(tmp_path: Path) -> None:
    source, told = table(tmp_path, 5, empty=[3]), []
    with Chatting() as server:
        record = run(server, source, told=lambda done, all_: told.append((done, all_)))
        assert len(server.asked) == 4
        assert server.questions[0] == f"Sum up: {MARK} note 0: pressure 10 mmHg"
    to = tmp_path / "out.csv"
    assert rows_of(to) == [
        {
            "eye": f"e{i}",
            "summary": "" if i == 3 else f"summary of {i}: pressure {10 + i} mmHg",
            "key": f"k{i}",
        }
        for i in range(5)
    ]
    assert told == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert record == record_of(to)
    assert record["prompt"] == PROMPT
    assert record["text_leaks_label"] == "unknown"
    assert record["reviewed"] is False
    assert record["model"] == {
        "kind": "endpoint",
        "endpoint": f"{server.url}/chat/completions",
        "name": "small",
        "max_new_tokens": 128,
        "limit_as": "max_tokens",
        "temperature": 0.0,
        "seed": 0,
    }
    assert record["rows"] == {
        "all": 5,
        "empty_note": 1,
        "summary": 4,
        "empty_answer": 0,
        "cut_at_max_characters": 0,
        "note_cut": 0,
    }
    assert record["ended"] == {"no note": 1, "stop": 4}
    assert record["tokens"] == {"in": 28, "out": 12}
    assert record["source"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert MARK not in json.dumps(record)
    assert {p.name for p in tmp_path.iterdir() if p.suffix != ".lock"} == {
        "notes.csv",
        "out.csv",
        "out.csv.json",
    }
    assert stat.S_IMODE(to.stat().st_mode) == 0o600


def test_what_was_answered_before_a_fault_is_asked_no_more(tmp_path: Path) -> None:
    source = table(tmp_path, 6)
    with Chatting(from_(4, lambda q: echoing(q, 500))) as server:
        with pytest.raises(EndpointAway, match="cannot answer now"):
            run(server, source)
        assert len(server.asked) == 4
    journal = journal_path(tmp_path / "out.csv")
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    assert not (tmp_path / "out.csv").exists()
    # Another server is another endpoint: the same one has to be asked again.
    held = Journal.read(journal)
    assert held is not None
    assert sorted(held.answers) == [0, 1, 2]
    with Chatting() as again:
        _moved(journal, held.asked["model.endpoint"], f"{again.url}/chat/completions")
        told: list[int] = []
        record = run(again, source, told=lambda done, _: told.append(done))
        assert [q.split("note ")[1][0] for q in again.questions] == ["3", "4", "5"]
    assert told == [3, 4, 5, 6]
    assert record["rows"]["summary"] == 6
    assert not journal.exists()


def _moved(journal: Path, old: str, new: str) -> None:
    journal.write_text(journal.read_text().replace(old, new))


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_line_that_a_crash_has_cut_off_is_asked_about_again(cut: int, tmp_path: Path) -> None:
    source = table(tmp_path, 4)
    with Chatting(lambda n, q: Said(code=500 if n in (3, 5) else 200)) as server:
        with pytest.raises(EndpointAway):
            run(server, source)
        journal = journal_path(tmp_path / "out.csv")
        journal.write_bytes(journal.read_bytes()[:-cut])
        # What was left of the line must not spoil what is written after it.
        with pytest.raises(EndpointAway):
            run(server, source)
        run(server, source)
        assert [q.split("note ")[1][0] for q in server.questions] == [*"012", *"12", *"23"]
    assert [row["summary"] for row in rows_of(tmp_path / "out.csv")] == [
        f"summary of {i}: pressure {10 + i} mmHg" for i in range(4)
    ]


DIFFERENT: dict[str, tuple[Asked, dict[str, Any], str]] = {
    "prompt": (dataclasses.replace(ASKED, prompt=Prompt("Say: {note}")), {}, "--prompt"),
    "length": (dataclasses.replace(ASKED, characters=90), {}, "--max-characters"),
    "model": (ASKED, {"model": "large"}, "model.name"),
    "temperature": (ASKED, {"temperature": 0.7}, "model.temperature"),
    "seed": (ASKED, {"seed": 1}, "model.seed"),
    "tokens": (ASKED, {"max_new_tokens": 5}, "model.max_new_tokens"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_summaries_made_otherwise_are_not_mixed(name: str, tmp_path: Path) -> None:
    asked, more, what = DIFFERENT[name]
    source = table(tmp_path, 3)
    with Chatting(lambda n, q: Said(code=500) if n == 2 else Said()) as server:
        with pytest.raises(EndpointAway):
            run(server, source)
        with pytest.raises(ConfigError, match="made otherwise") as raised:
            run(server, source, asked, **more)
        assert raised.value.found == f"another {what}"
        assert len(server.asked) == 2
        run(server, source, asked, restart=True, **more)
        assert len(server.asked) == 5


def test_another_table_is_not_taken_for_the_first(tmp_path: Path) -> None:
    source = table(tmp_path, 3)
    with Chatting(lambda n, q: Said(code=500) if n == 2 else Said()) as server:
        with pytest.raises(EndpointAway):
            run(server, source)
        table(tmp_path, 4)
        with pytest.raises(ConfigError, match="made otherwise") as raised:
            run(server, source)
    assert raised.value.found == "another source"


def test_a_finished_output_is_replaced_only_when_told(tmp_path: Path) -> None:
    source = table(tmp_path, 2)
    with Chatting() as server:
        run(server, source)
        with pytest.raises(ConfigError, match="there already"):
            run(server, source)
        assert len(server.asked) == 2
        run(server, source, restart=True)
        assert len(server.asked) == 4


def test_a_refused_note_stops_no_other(tmp_path: Path) -> None:
    source = table(tmp_path, 6)

    def script(number: int, question: str) -> Said:
        return echoing(question) if "note 2" in question or "note 4" in question else Said()

    with Chatting(script) as server:
        with pytest.raises(DataError, match="all others are answered") as raised:
            run(server, source)
        assert raised.value.where == "notes.csv:4, notes.csv:6"
        assert "context_length_exceeded" in str(raised.value)
        assert MARK not in str(raised.value)
        assert len(server.asked) == 6
        asked = dataclasses.replace(ASKED, refused="empty")
        record = run(server, source, asked)
        assert len(server.asked) == 8
    assert record["ended"] == {"refused": 2, "stop": 4}
    assert record["rows"]["empty_answer"] == 2
    assert [row["eye"] for row in rows_of(tmp_path / "out.csv") if not row["summary"]] == [
        "e2",
        "e4",
    ]


def test_a_refused_first_note_is_not_taken_for_a_wrong_request(tmp_path: Path) -> None:
    with Chatting(lambda n, q: echoing(q) if "note 0" in q else Said()) as server:
        asked = dataclasses.replace(ASKED, refused="empty")
        record = run(server, table(tmp_path, 4), asked)
        assert len(server.asked) == 4
    assert record["ended"] == {"refused": 1, "stop": 3}


def test_a_request_that_is_wrong_for_all_is_made_three_times(tmp_path: Path) -> None:
    with Chatting(lambda n, q: echoing(q)) as server:
        asked = dataclasses.replace(ASKED, refused="empty")
        with pytest.raises(DataError, match="refuses the request") as raised:
            run(server, table(tmp_path, 5), asked)
        assert "no note was ever answered" in str(raised.value)
        assert len(server.asked) == 3


def test_long_and_cut_answers_are_counted(tmp_path: Path) -> None:
    texts = ["one two three four", "fine", "", "odd\x00\x1b[31m\n\n text"]

    def script(number: int, question: str) -> Said:
        return Said(text=texts[number - 1], ended="length" if number == 2 else "stop")

    with Chatting(script) as server:
        record = run(server, table(tmp_path, 4), dataclasses.replace(ASKED, characters=12))
    assert [r["summary"] for r in rows_of(tmp_path / "out.csv")] == [
        "one two",
        "fine",
        "",
        "odd[31m text",
    ]
    assert record["rows"]["cut_at_max_characters"] == 1
    assert record["rows"]["empty_answer"] == 1
    assert record["ended"] == {"length": 1, "stop": 3}


def test_a_plan_asks_for_nothing_and_writes_nothing(tmp_path: Path) -> None:
    source = table(tmp_path, 5, empty=[0])
    to = tmp_path / "out.csv"
    notes = read_notes(source, "note", "eye")
    letters = [len(ASKED.ask(text)) for text in notes.texts]
    with Chatting(lambda n, q: Said(code=500) if n == 3 else Said()) as server:
        found = plan(notes, model(server), ASKED, to)
        assert found == Plan(5, 1, 0, 4, -(-sum(letters[1:]) // 4), 4 * 128)
        assert (server.asked, {p.name for p in tmp_path.iterdir()}) == ([], {"notes.csv"})
        with pytest.raises(EndpointAway):
            run(server, source)
        found = plan(notes, model(server), ASKED, to)
        assert found == Plan(5, 1, 2, 2, -(-sum(letters[3:]) // 4), 2 * 128)
        assert plan(notes, model(server), ASKED, to, restart=True).left == 4
        with pytest.raises(ConfigError, match="made otherwise"):
            plan(notes, model(server, seed=4), ASKED, to)


def test_two_processes_do_not_write_to_one_output(tmp_path: Path) -> None:
    to = tmp_path / "out.csv"
    with alone(to), Chatting() as server:
        with pytest.raises(ConfigError, match="another process"):
            run(server, table(tmp_path, 2))
        assert server.asked == []
    with alone(to), pytest.raises(filelock.Timeout):
        filelock.FileLock(tmp_path / ".out.csv.lock", timeout=0).acquire()


@pytest.mark.parametrize("content", [b"\n", b"{}\n", b'{"asked": {}}\n{"row": 1}\n', b"\xff\n"])
def test_a_damaged_journal_is_one_message(content: bytes, tmp_path: Path) -> None:
    source = table(tmp_path, 2)
    journal_path(tmp_path / "out.csv").write_bytes(content)
    with Chatting() as server:
        with pytest.raises(StorageError, match="damaged"):
            run(server, source)
        assert server.asked == []
        run(server, source, restart=True)
        assert len(server.asked) == 2


def test_answers_of_any_text_are_read_back(tmp_path: Path) -> None:
    journal = Journal.begin(tmp_path / "j", {"model": "m", "more": [1, 2]})
    answers = {3: Answer('a "b"\nc\u2028d ü\x85'), 0: Answer("", "length", True, 1, 2)}
    with journal.writing() as writer:
        for row, answer in answers.items():
            writer.add(row, answer)
    back = Journal.read(tmp_path / "j")
    assert back is not None
    assert (back.answers, back.asked) == (answers, {"model": "m", "more": [1, 2]})
    assert back.differing({"model": "m", "more": (1, 2), "new": 1}) == []
    assert back.differing({"model": "n", "more": (1,)}) == ["model", "more"]


def test_a_summary_column_that_is_there_already_is_refused_before_asking(tmp_path: Path) -> None:
    source = written(tmp_path / "n.csv", [["summary", "note", "eye"], ["a", MARK, "e"]])
    notes = read_notes(source, "note", "summary")
    with Chatting() as server:
        with pytest.raises(ConfigError, match="one name"):
            summarize(notes, model(server), ASKED, tmp_path / "out.csv")
        assert server.asked == []
    assert {p.name for p in tmp_path.iterdir()} == {"n.csv"}


def test_the_default_prompt_asks_for_no_diagnosis() -> None:
    assert read_prompt(None).template == DEFAULT
    assert not {"glaucoma", "diagnosis", "disease", "label", "presence"} & set(
        DEFAULT.lower().replace(".", " ").replace(",", " ").split()
    )
    assert "at most 90 characters" in Prompt(DEFAULT).filled("x", 90)


def test_a_note_is_not_read_as_a_prompt() -> None:
    assert Prompt("a {characters} {note} b").filled("{characters} {note}", 9) == (
        "a 9 {characters} {note} b"
    )


def test_a_prompt_is_a_text_or_a_file_with_one_place(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Sum up\n{note}\n")
    assert read_prompt(str(file)).template == "Sum up\n{note}\n"
    assert read_prompt("Sum {note} up").template == "Sum {note} up"
    (tmp_path / "none.txt").write_text("Sum up")
    (tmp_path / "latin.txt").write_bytes("für {note}".encode("latin-1"))
    for given, what in (
        (tmp_path / "none.txt", "one place"),
        ("{note} and {note}", "one place"),
        ("Sum this up", "neither a file"),
        ("x" * 5000, "neither a file"),
        (tmp_path / "latin.txt", "not UTF-8"),
    ):
        with pytest.raises(FairtuneError, match=what):
            read_prompt(str(given))


@hypothesis.given(st.text(alphabet="ab \n\x00", max_size=40), st.integers(1, 20))
def test_summaries_are_cut_at_words(text: str, characters: int) -> None:
    line = " ".join(text.replace("\x00", "").split())
    cut, was = shortened(text, characters)
    assert len(cut) <= characters
    assert line.startswith(cut)
    assert was == (cut != line)
    words = line.split(" ")
    if was and len(words[0]) <= characters:
        # Whole words, and not one more would have fitted.
        count = len(cut.split(" "))
        assert cut.split(" ") == words[:count]
        assert len(" ".join(words[: count + 1])) > characters
