"""Texts as they are used: what is taken out, where they are cut, rows without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit_data import HEADER, ROWS, table_of

from fairtune.data import open_pack
from fairtune.data.text import Pattern, TextRule
from fairtune.errors import ConfigError, DataError, Problems

WORDED = f"{HEADER},report"
REPORTS = [
    '"A 54-year-old man, COVID-19 positive."',
    "No  finding at all",
    "Covid pneumonia; covidien tubes",
    "  ",
    "Clear",
    "covid.",
    "He has a fever",
    "The heart is large",
]
STRIP = ["COVID-19", "covid", {"pattern": "[0-9]+-year-old"}, "man", "he"]


def worded(make: Any, rows: list[str] | None = None, **text: Any) -> Any:
    reports = REPORTS if rows is None else rows
    lines = [f"{row},{report}" for row, report in zip(ROWS, reports, strict=True)]
    return make(lines, WORDED, text={"column": "report", **text} if text else "report")


def test_the_short_form_is_the_rule_of_its_column(make: Any) -> None:
    spec = worded(make)
    assert spec.text == TextRule(column="report")
    assert table_of(spec).frame["text"].tolist()[:4] == [
        "A 54-year-old man, COVID-19 positive.",
        "No  finding at all",
        "Covid pneumonia; covidien tubes",
        "  ",
    ]


def test_fingerprints_of_older_specs_stay_what_they_were(make: Any) -> None:
    """Measured before texts had rules: stored studies are pinned to these."""
    marks = ["0" * 8 + f"-{i}" for i in range(8)]
    found = []
    for spec in (make(), worded(make)):
        table = table_of(spec)
        table.__dict__["marks"] = tuple(marks)
        found.append(table.fingerprint)
    assert found == ["ae9a0110247b967ad4803e7324886e29", "9ced91c55b98cb275032ebe56110845a"]


def test_words_are_taken_out_whole_in_order_and_counted(make: Any) -> None:
    table = table_of(worded(make, strip=STRIP))
    assert table.frame["text"].tolist() == [
        "A , positive.",
        "No finding at all",
        "pneumonia; covidien tubes",
        "",
        "Clear",
        ".",
        "has a fever",
        "The heart is large",
    ]
    assert table.wording is not None
    assert [(f.name, f.times, f.rows) for f in table.wording.found] == [
        ("COVID-19", 1, 1),
        ("covid", 2, 2),
        ("/[0-9]+-year-old/", 1, 1),
        ("man", 1, 1),
        ("he", 1, 1),
    ]
    assert len(table) == 8


def test_the_fingerprint_follows_the_text_as_it_is_used(make: Any) -> None:
    first = table_of(worded(make, strip=STRIP)).fingerprint
    again = [*REPORTS[:5], "COVID.", *REPORTS[6:]]
    assert table_of(worded(make, again, strip=STRIP)).fingerprint == first
    assert table_of(worded(make, again)).fingerprint != table_of(worded(make)).fingerprint
    assert table_of(worded(make, strip=STRIP, cut=10)).fingerprint != first


def test_rows_without_a_text_are_left_out_or_refused_where_texts_are_used(
    make: Any, tmp_path: Path
) -> None:
    dropped = worded(make, strip=STRIP, missing="drop")
    assert len(table_of(dropped)) == 8
    table = table_of(dropped, text=True)
    assert table.frame["id"].tolist() == ["a0", "a1", "a2", "a4", "a6", "a7"]
    assert table.dropped == {"text": 2}
    assert table.split_hash == table_of(dropped).split_hash
    pack = open_pack(table, image_size=8, cache=tmp_path / "cache")
    assert pack.texts(pack.rows("val")) == ["Clear"]
    with pytest.raises(DataError) as caught:
        table_of(worded(make, strip=STRIP), text=True)
    for part in ("lines 5, 7", "'report'", "2 of 8", "1 of them only once", "missing: drop"):
        assert part in str(caught.value)
    assert "covid" not in str(caught.value).lower()


def test_rows_that_are_not_used_need_no_text(make: Any) -> None:
    spec = worded(make)
    assert len(table_of(spec, text=True, where={"image_id": ["a0", "a4", "a6"]})) == 3


def test_a_split_that_lost_all_its_texts_is_empty(make: Any) -> None:
    bare = ["", "", "", "", "x", "x", "x", "x"]
    with pytest.raises(DataError, match="'train' is empty"):
        table_of(worded(make, bare, missing="drop"), text=True)


def test_texts_must_be_there_to_be_used(make: Any) -> None:
    with pytest.raises(ConfigError, match="no texts"):
        table_of(make(), text=True)
    with pytest.raises(DataError, match=r"'reports', which 'text.column'"):
        table_of(make(text="reports"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ({"column": "report", "strip": [{"pattern": "("}]}, ["strip.0.pattern", "not a regular"]),
        ({"column": "report", "strip": [{"pattern": "x*"}]}, ["strip.0", "empty text"]),
        ({"column": "report", "strip": ["covid", " "]}, ["text.strip.1", "word is empty"]),
        ({"column": "report", "cut": 0}, ["text.cut", "greater than or equal to 1"]),
        ({"column": "report", "missing": "skip"}, ["text.missing", "'refuse' or 'drop'"]),
        ({"colum": "report"}, ["'colum'", "did you mean 'column'"]),
    ],
)
def test_a_rule_of_texts_is_checked(make: Any, text: Any, says: list[str]) -> None:
    with pytest.raises((ConfigError, Problems)) as caught:
        make(text=text)
    for part in ("tiny.yaml:", *says):
        assert part in str(caught.value)


def test_a_leak_needs_a_text(make: Any) -> None:
    with pytest.raises(ConfigError, match="no 'text' that could leak"):
        make(text_leaks_label=True)


@pytest.mark.parametrize(
    ("text", "cut", "used"),
    [
        ("one two three", 13, "one two three"),
        ("one two three", 12, "one two"),
        ("one two three", 8, "one two"),
        ("one two three", 7, "one"),
        ("one two three", 6, "one"),
        ("unbreakable", 4, "unbr"),
        ("one\ntwo\t three", 8, "one two"),
    ],
)
def test_texts_are_cut_between_words(text: str, cut: int, used: str) -> None:
    assert TextRule(column="x", cut=cut).apply([text]).used == (used,)


@given(
    words=st.lists(st.text("abcé", min_size=1, max_size=6), min_size=1, max_size=12),
    cut=st.integers(6, 40),
)
def test_a_cut_is_the_published_one_and_keeps_whole_words(words: list[str], cut: int) -> None:
    text = " ".join(words)
    wording = TextRule(column="x", cut=cut).apply([text])
    kept = wording.used[0].split(" ")
    assert kept == words[: len(kept)]
    assert len(wording.used[0]) <= cut
    if len(text) > cut:
        assert len(" ".join(words[: len(kept) + 1])) >= cut
        # As FairCLIP cuts at 180.
        short = text[:cut]
        assert wording.used[0] == (short[: short.rfind(" ")] if " " in short else short)
    assert wording.cut == (len(text) > cut)


def test_a_phrase_is_found_however_it_is_spaced_and_capitals_are_alike() -> None:
    rule = TextRule(column="x", strip=("open angle", Pattern(pattern="grade [iv]+")))
    assert rule.apply(["Open \n Angle", "reopen angle", "GRADE IV open angles"]).used == (
        "",
        "reopen angle",
        "open angles",
    )


NOTE = "A long note of MARKER, who came with a cough and left with a prescription for it."


@pytest.mark.parametrize(
    "rule",
    [
        {"derive": {"grade": {"column": "report", "pattern": "grade ([0-9])"}}},
        {"targets": {"ill": {"column": "report", "positive": "ill", "negative": "well"}}},
        {"attributes": {"sex": {"column": "report", "map": {"F": "F"}}}},
        {"split": {"column": "report"}},
        {"filter": [{"column": "report", "between": [1, 2]}]},
        {"id": "report"},
    ],
)
def test_no_message_shows_a_note(make: Any, rule: Any) -> None:
    """Rules that are pointed at the wrong column, as happens."""
    lines = [f'{row},"{NOTE}"' for row in ROWS]
    spec = make(lines, WORDED, **{"text": "report", "attributes": {}, **rule})
    with pytest.raises((DataError, Problems)) as caught:
        table_of(spec, attributes=list(spec.attributes))
    assert "a text of 81 characters" in str(caught.value)
    assert "MARKER" not in str(caught.value)


def test_no_condition_that_fits_nothing_shows_a_note(make: Any) -> None:
    spec = make([f'{row},"{NOTE}"' for row in ROWS], WORDED, text="report")
    with pytest.raises(DataError) as caught:
        table_of(spec, where={"report": "x"})
    assert "a text of 81 characters" in str(caught.value)
    assert "MARKER" not in str(caught.value)
