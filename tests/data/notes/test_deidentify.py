"""Notes with tags: the output, its record, and the finders that may be chosen."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kit_notes import MARK, record_of, rows_of, written

import fairtune
from fairtune.data.notes.deidentify import deidentify, finders_of
from fairtune.data.notes.presidio import NO_MODEL, Presidio
from fairtune.data.notes.rules import Rules
from fairtune.data.notes.spans import Finder, Span, merged, tagged
from fairtune.data.notes.table import Notes, read_notes
from fairtune.errors import ConfigError, DataError

NOTE = f"{MARK}: Dr. Jones saw her on 2021-03-04, Jones again on 2021-04-05; a@ward.local"


def notes_of(folder: Path, *texts: str) -> Notes:
    rows = [["eye", "note", "key"], *([f"e{i}", t, f"k{i}"] for i, t in enumerate(texts))]
    return read_notes(written(folder / "notes.csv", rows), "note", "eye", ["key"])


def test_output_and_record_say_what_was_replaced_and_claim_no_more(tmp_path: Path) -> None:
    to, told = tmp_path / "out.csv", []
    notes = notes_of(tmp_path, NOTE, "no pain", "")
    record = deidentify(notes, [Rules()], to, lambda done, all_: told.append((done, all_)))
    assert rows_of(to) == [
        {
            "eye": "e0",
            "note": f"{MARK}: Dr. <NAME> saw her on <DATE>, <NAME> again on <DATE>; <EMAIL>",
            "key": "k0",
        },
        {"eye": "e1", "note": "no pain", "key": "k1"},
        {"eye": "e2", "note": "", "key": "k2"},
    ]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert record == record_of(to)
    assert record["fairtune"] == fairtune.__version__
    assert record["reviewed"] is False
    assert record["status"].startswith("not reviewed")
    assert record["rows"] == {"all": 3, "changed": 1, "unchanged": 1, "empty": 1}
    counts = {(line["by"], line["tag"]): line["count"] for line in record["replaced"]}
    assert counts == {
        ("rules.date", "DATE"): 2,
        ("rules.email", "EMAIL"): 1,
        ("rules.name after a title", "NAME"): 1,
        ("rules.name again", "NAME"): 1,
    }
    assert record["source"]["sha256"] == hashlib.sha256(notes.path.read_bytes()).hexdigest()
    assert record["output"]["sha256"] == hashlib.sha256(to.read_bytes()).hexdigest()
    assert record["not_touched"] == ["eye", "key"]
    assert MARK not in to.with_name("out.csv.json").read_text()
    assert str(tmp_path) not in to.with_name("out.csv.json").read_text()


class Fails:
    """A finder that fails and says what it was reading."""

    def find(self, text: str) -> Sequence[Span]:
        raise RuntimeError(f"cannot read {text}")

    def facts(self) -> dict[str, Any]:
        return {"name": "fails"}


def test_a_finder_that_fails_leaves_nothing_and_quotes_nothing(tmp_path: Path) -> None:
    finders: list[Finder] = [Rules(), Fails()]
    with pytest.raises(DataError, match="failed on a note") as raised:
        deidentify(notes_of(tmp_path, NOTE), finders, tmp_path / "out.csv")
    assert MARK not in str(raised.value)
    assert raised.value.__suppress_context__
    assert "notes.csv:2" in str(raised.value)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.csv"}


def test_an_output_is_never_replaced(tmp_path: Path) -> None:
    notes, to = notes_of(tmp_path, NOTE), tmp_path / "out.csv"
    deidentify(notes, [Rules()], to)
    before = to.read_bytes()
    with pytest.raises(ConfigError, match="there already"):
        deidentify(notes, [Rules()], to)
    assert to.read_bytes() == before


def test_finders_that_cannot_be_chosen_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for names, language, model, what in (
        (["presidiu"], "en", None, "unknown finder"),
        (["rules"], "de", None, "English"),
        (["rules"], "en", "en_core_web_lg", "only Presidio"),
    ):
        with pytest.raises(ConfigError, match=what):
            finders_of(names, language, model, 0.3)
    # Python finds no package whose place is taken by None.
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    for names, what in (
        ((), "nothing says that rules are enough"),
        (["presidio"], "not installed"),
    ):
        with pytest.raises(ConfigError, match=what) as raised:
            finders_of(names, "en", None, 0.3)
        assert "--with rules" in str(raised.value)


@pytest.fixture(scope="module")
def plain() -> Presidio:
    return Presidio("en", NO_MODEL, 0.3)


@pytest.mark.needs("presidio")
def test_presidio_without_a_model_reads_forms_and_says_that_it_reads_no_names(
    request: pytest.FixtureRequest,
) -> None:
    plain: Presidio = request.getfixturevalue("plain")
    text = (
        "Anna Schmidt, 2021-03-04, a@ward.local, (617) 555-1234, https://x.org/a 4111111111111111"
    )
    assert tagged(text, merged(plain.find(text))) == (
        "Anna Schmidt, <DATE>, <EMAIL>, <PHONE>, <URL> <ID>"
    )
    facts = plain.facts()
    assert facts["spacy_model"] is None
    assert "SpacyRecognizer" not in facts["recognisers"]
    assert "EmailRecognizer" not in facts["recognisers"]
    assert any(missed.startswith("names, places") for missed in facts["not_looked_for"])


@pytest.mark.needs("presidio")
def test_presidio_reads_names_by_the_model_it_is_given(tmp_path: Path) -> None:
    import spacy

    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns(  # type: ignore[attr-defined]
        [
            {"label": "PERSON", "pattern": "Anna Schmidt"},
            {"label": "GPE", "pattern": "Boston"},
            {"label": "CARDINAL", "pattern": "two"},
        ]
    )
    nlp.to_disk(tmp_path / "model")
    one = Presidio("en", str(tmp_path / "model"), 0.3)
    text = "Anna Schmidt from Boston has two eyes"
    assert tagged(text, merged(one.find(text))) == "<NAME> from <PLACE> has two eyes"
    facts = one.facts()
    assert facts["spacy_model"] == "en_pipeline 0.0.0"
    assert not any(missed.startswith("names") for missed in facts["not_looked_for"])
    with pytest.raises(ConfigError, match="another language"):
        Presidio("de", str(tmp_path / "model"), 0.3)


@pytest.mark.needs("presidio")
def test_presidio_fetches_nothing_and_writes_no_logs(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import socket

    plain: Presidio = request.getfixturevalue("plain")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with caplog.at_level("DEBUG"):
        Presidio("en", NO_MODEL, 0.3)
        plain.find(NOTE)
        with pytest.raises(ConfigError, match="is not here"):
            Presidio("en", "no_such_model", 0.3)
    assert MARK not in caplog.text


@pytest.mark.needs("presidio")
def test_the_threshold_decides_what_is_sure_enough() -> None:
    text = "licence T2500"
    assert [
        tagged(text, merged(Presidio("en", NO_MODEL, score).find(text))) for score in (0.3, 0.9)
    ] == ["licence <ID>", text]


@pytest.mark.needs("presidio")
def test_models_and_languages_that_are_not_there_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for language, model, what in (
        ("en", None, "is not here"),
        ("de", None, "is not here"),
        ("xq", NO_MODEL, "does not know the language"),
        ("en", str(tmp_path / "empty"), "cannot load the model"),
    ):
        with pytest.raises(ConfigError, match=what):
            finders_of(["presidio"], language, model, 0.3)


@pytest.mark.needs("presidio")
def test_both_finders_together_replace_what_either_finds(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    to = tmp_path / "out.csv"
    finders: list[Finder] = [request.getfixturevalue("plain"), Rules()]
    record = deidentify(notes_of(tmp_path, "Dr. Jones, 4111111111111111"), finders, to)
    assert rows_of(to)[0]["note"] == "Dr. <NAME>, <ID>"
    assert [finder["name"] for finder in record["found_by"]] == ["presidio", "rules"]
    assert sum(line["count"] for line in record["replaced"]) == 2
