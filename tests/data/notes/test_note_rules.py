"""Rules for English notes: what they replace, what they leave, and what that costs."""

from __future__ import annotations

import itertools
import time

import hypothesis
import pytest
from hypothesis import strategies as st

from fairtune.data.notes.rules import Rules
from fairtune.data.notes.spans import Span, merged, tagged

RULES = Rules()


def replaced(text: str) -> str:
    return tagged(text, merged(RULES.find(text)))


REPLACED = {
    "seen 2021-03-04, 03/04/2021, 4.3.21 and 3-4-2021": "seen <DATE>, <DATE>, <DATE> and <DATE>",
    "March 4, 2021; 4th of March 2021; march 2021; 4-Mar-2021": "<DATE>; <DATE>; <DATE>; <DATE>",
    "May 5 he came, MAY 6, 5 May, on 3/10, 05/2020": (
        "<DATE> he came, <DATE>, <DATE>, on <DATE>, <DATE>"
    ),
    "call (617) 555-1234 x12, +49 30 1234567 or 617-555-1234": "call <PHONE>, <PHONE> or <PHONE>",
    "tel: 5551234, pager # 4410": "tel: <PHONE>, pager # <PHONE>",
    "anna.b@ward.local, https://x.org/a?b=1. www.y.net": "<EMAIL>, <URL>. <URL>",
    "host 10.0.0.1": "host <IP>",
    "MRN: 00123456, SSN 123-45-6789, account #A-77812": "MRN: <ID>, SSN <ID>, account #<ID>",
    "Record number 4711, ID AB123456, 1234567": "Record number <ID>, ID <ID>, <ID>",
    "a 92-year-old, aged 95, 101 y/o, ninety-two years old": (
        "a <AGE>-year-old, aged <AGE>, <AGE> y/o, <AGE> years old"
    ),
    "12 North Main Street, Apt 4, Boston MA 02139-1234": "<ADDRESS>, Boston MA <ZIP>",
    "P.O. Box 123, zip 02139": "<ADDRESS>, zip <ZIP>",
    "Dr. Anna B. Schmidt saw Mr Brown and Mrs. O'Neill-Smith": (
        "Dr. <NAME> saw Mr <NAME> and Mrs. <NAME>"
    ),
    "Patient: Anna Schmidt, MRN 12345. Schmidt's eye": "Patient: <NAME>, MRN <ID>. <NAME>'s eye",
    "PATIENT NAME: SCHMIDT, ANNA M. HISTORY": "PATIENT NAME: <NAME> HISTORY",
    "Electronically signed by Jane Doe, MD": "Electronically signed by <NAME>, MD",
    "cc: Dr. Brown; referred by John Smith": "cc: Dr. <NAME>; referred by <NAME>",
}
KEPT = (
    "A 45-year-old woman with pressure 22/24 mmHg, C/D 0.6, MD -3.5 dB, CCT 545/550 um.",
    "Acuity 20/40 and 20/20-2; fields 10-2 and 24-2; pain 3/10; since 2019; 0.5% timolol.",
    "She may 3 times a day take it. Version 1.2.3. BP 120/80, pulse 92.",
    "Patient: presents with glaucoma. PATIENT: MALE, 89 years old. The Dr. said so.",
    "id 4, case 12, patient 55; T2500; 100 units",
)


@pytest.mark.parametrize("text", REPLACED)
def test_what_has_the_form_of_an_identifier_is_replaced(text: str) -> None:
    assert replaced(text) == REPLACED[text]


@pytest.mark.parametrize("text", KEPT)
def test_measurements_stay(text: str) -> None:
    assert replaced(text) == text


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "1",
        "A ",
        "Aa-",
        "1 ",
        "+1 ",
        "Dr. Xa ",
        "Anna ",
        " ",
        "patient ",
        "0/",
        "1-",
        "x@",
        "a.b",
    ],
)
def test_a_long_line_of_anything_takes_no_longer_than_its_length(piece: str) -> None:
    # Rules whose work grows with the square of a line's length take minutes for some of these.
    text, begin = piece * (60_000 // len(piece)), time.monotonic()
    merged(RULES.find(text))
    assert time.monotonic() - begin < 30


@hypothesis.given(st.text(alphabet="ab1 <>/-.@DrMrsPatient:\n", max_size=80))
def test_spans_lie_in_the_text_and_nothing_else_changes(text: str) -> None:
    spans = merged(RULES.find(text))
    assert all(0 <= s.start < s.end <= len(text) for s in spans)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
    kept = [
        text[a:b] for a, b in zip([0, *(s.end for s in spans)], [*(s.start for s in spans), None])
    ]
    out = tagged(text, spans)
    for piece in kept:
        assert out.startswith(piece)
        out = out[len(piece) :]
        if out:
            assert out.startswith("<")
            out = out[out.index(">") + 1 :]
    assert out == ""


@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12), st.sampled_from("ABC")), max_size=8)
)
def test_merged_spans_cover_what_was_found_and_no_more(found: list[tuple[int, int, str]]) -> None:
    spans = [Span(start, start + length, tag, tag) for start, length, tag in found]
    out = merged(spans)
    covered = {i for s in spans for i in range(s.start, s.end)}
    assert {i for s in out for i in range(s.start, s.end)} == covered
    assert sum(s.end - s.start for s in out) == len(covered)
    for span in out:
        inside = [
            s for s in spans if s.start >= span.start and s.end <= span.end and s.end > s.start
        ]
        longest = max(s.end - s.start for s in inside)
        assert span.tag in {s.tag for s in inside if s.end - s.start == longest}


def test_what_is_not_looked_for_is_named() -> None:
    facts = RULES.facts()
    assert len(facts["recognisers"]) == len(set(facts["recognisers"]))
    assert any("names without a title" in missed for missed in facts["not_looked_for"])
    assert {span.by.removeprefix("rules.") for t in REPLACED for span in RULES.find(t)} == set(
        facts["recognisers"]
    )
