"""Rules for English notes: what can be told by how it is written, and by the word before it.

They cover those of the 18 identifiers of HIPAA's safe harbour rule (45 CFR 164.514(b)(2)) that
have a form of their own. A name without a title or label has none, nor has a place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from fairtune.data.notes.spans import Span

LANGUAGE = "en"
MISSED = (
    "names without a title, label or degree beside them",
    "names in small letters",
    "names of hospitals, towns, employers and relatives",
    "dates in words, times, weekdays, years alone",
    "numbers of fewer than seven digits without a word such as MRN before them",
    "rare diseases and events by which somebody can be known",
)
"""What no rule looks for."""

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\b\.?"
)
_YEAR = r"(?:19|20)\d{2}"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
# Bounded, as a note may be one long line of anything.
_WORD = r"[A-ZÀ-ÖØ-Þ][\w'’]{0,30}(?:-[\w'’]{1,30}){0,2}"
_NAME = rf"{_WORD}(?:,?[ \t]+(?:[A-Z]\.[ \t]*)?{_WORD}){{0,2}}(?:[ \t]+[A-Z]\.)?"
_TITLE = r"(?:Dr|Doctor|Mr|Mrs|Ms|Miss|Mx|Prof|Professor|Rev|Nurse|Sister|DR|MR|MRS|MS|MISS|PROF)"
_LABEL = (
    r"(?:patient(?:[ \t]+name)?|pt|name|attending|resident|surgeon|physician|provider|pcp|cc"
    r"|clinician|optometrist|ophthalmologist|radiologist|technician|dictated|transcribed|reviewed"
    r"|next[ \t]+of[ \t]+kin|emergency[ \t]+contact|wife|husband|daughter|son|mother|father)"
)
_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Square|Sq"
    r"|Terrace|Highway|Hwy|Parkway|Pkwy)\b\.?"
)
_STATE = (
    r"(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]"
    r"|T[NX]|UT|V[AT]|W[AIVY])"
)
_NUMBERED = (
    r"(?:MRN|medical[ \t]+record|record|account|acct|accession|patient[ \t]+id|patient|id|ssn|nhs"
    r"|member|policy|insurance|licen[cs]e|serial|device|case|visit|encounter|csn|hicn|medicare"
    r"|medicaid)"
)
_OLD = r"(?:9\d|1[0-2]\d)"
_OLD_WORDS = (
    r"(?:ninety(?:[- ](?:one|two|three|four|five|six|seven|eight|nine))?|one[- ]hundred"
    r"(?:[- ]and)?(?:[- ](?:one|two|three|four|five|six|seven|eight|nine|ten))?)"
)
_YEARS_OLD = r"(?:[- ]?(?:years?|yrs?)[- ]?(?:old|of[- ]age)|[ -]?y\.?[/ ]?o\b|[- ]yr[- ]?old)"

# In the order of what is called what where two have the same letters. A group `x` is what is
# replaced, else all of it.
_RULES: tuple[tuple[str, str, str, int], ...] = (
    ("email", "EMAIL", r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+", 0),
    ("url", "URL", r"\b(?:https?://|www\.)[^\s<>\"]+[^\s<>\".,;:)\]]", re.IGNORECASE),
    ("ip", "IP", r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])", 0),
    ("ssn", "ID", r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])", 0),
    (
        "labelled number",
        "ID",
        rf"\b{_NUMBERED}\b[ \t]*(?:number|no\b\.?|num\b\.?|id\b|#)?[ \t]*(?:is\b)?[ \t]*[:=#]*"
        r"[ \t]*(?P<x>[A-Z]{0,4}-?\d[\w-]{3,})",
        re.IGNORECASE,
    ),
    ("date", "DATE", rf"(?<![\d/.-]){_YEAR}[-/.](?:0?[1-9]|1[0-2])[-/.]{_DAY}(?![\d/-])", 0),
    ("date", "DATE", r"(?<![\d/.-])\d{1,2}([/.-])\d{1,2}\1(?:\d{4}|\d{2})(?![\d/-])", 0),
    ("date", "DATE", rf"(?<![\d/.-])(?:0?[1-9]|1[0-2])/{_YEAR}(?![\d/-])", 0),
    (
        "date",
        "DATE",
        rf"\b(?:on|since|until|till|by|dated?)[ \t]*:?[ \t]*"
        rf"(?P<x>(?:0?[1-9]|1[0-2])/{_DAY})(?![\d/])",
        re.IGNORECASE,
    ),
    (
        "date",
        "DATE",
        rf"\b(?:{_MONTH}[ \t]*{_DAY}(?:st|nd|rd|th)?,?[ \t]+|"
        rf"(?:{_DAY}(?:st|nd|rd|th)?[ \t-]*(?:of[ \t]+)?)?{_MONTH},?[ \t-]*){_YEAR}\b",
        re.IGNORECASE,
    ),
    # Without a year small letters would make a date of "may 3 times".
    (
        "date",
        "DATE",
        rf"\b(?=[A-Z])(?:{_MONTH}|(?i:{_MONTH})(?<=[A-Z]))[ \t]+{_DAY}(?:st|nd|rd|th)?\b(?![\d/])",
        0,
    ),
    ("date", "DATE", rf"\b{_DAY}(?:st|nd|rd|th)?[ \t]+(?:of[ \t]+)?{_MONTH}", 0),
    (
        "phone",
        "PHONE",
        r"(?<![\w+-])(?:\+?1[ .-]?)?(?:\(\d{3}\)[ .-]?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])"
        r"(?:[ \t]*(?:x|ext\.?)[ \t]*\d{1,6})?",
        re.IGNORECASE,
    ),
    ("phone", "PHONE", r"(?<!\w)\+\d[\d ().-]{7,18}\d(?!\w)", 0),
    (
        "phone",
        "PHONE",
        r"\b(?:phone|telephone|tel|fax|pager|cell|mobile|ext)\b\.?[ \t]*(?:number|no\.?|#)?[ \t]*"
        r":?[ \t]*(?P<x>\+?\(?\d[\d ().-]{2,18}\d)",
        re.IGNORECASE,
    ),
    (
        "address",
        "ADDRESS",
        rf"\b\d{{1,6}}[ \t]+(?:[NSEW]\.?[ \t]+)?(?:{_WORD}[ \t]+){{1,4}}{_STREET}"
        r"(?:,?[ \t]*(?:Apt|Suite|Unit|Ste|#)\.?[ \t]*\w{1,8})?",
        0,
    ),
    ("address", "ADDRESS", r"\bP\.?[ \t]?O\.?[ \t]+Box[ \t]+\d{1,8}\b", re.IGNORECASE),
    (
        "zip",
        "ZIP",
        rf"\b{_STATE},?[ \t]+(?P<x>\d{{5}}(?:-\d{{4}})?)\b",
        0,
    ),
    (
        "zip",
        "ZIP",
        r"\b(?:zip|postal)(?:[ \t]*code)?[ \t]*:?[ \t]*(?P<x>\d{5}(?:-\d{4})?)\b",
        re.I,
    ),
    ("zip", "ZIP", r"(?<![\d-])\d{5}-\d{4}(?![\d-])", 0),
    ("age above 89", "AGE", rf"(?<![\d.])(?P<x>{_OLD}|{_OLD_WORDS}){_YEARS_OLD}", re.IGNORECASE),
    ("age above 89", "AGE", rf"\b(?:aged?|age:)[ \t]*(?:of[ \t]+)?(?P<x>{_OLD})\b", re.IGNORECASE),
    ("long number", "ID", r"(?<![\w.])[A-Z]{0,3}\d{7,}(?![\w.]*\d)", 0),
    ("name after a title", "NAME", rf"\b{_TITLE}\b\.?[ \t]+(?P<x>{_NAME})", 0),
    (
        "name after a label",
        "NAME",
        rf"\b(?i:{_LABEL})(?:[ \t]+(?i:physician|provider|surgeon|md|by))?[ \t]*:[ \t]*"
        rf"(?P<x>{_NAME})",
        0,
    ),
    (
        "name after a label",
        "NAME",
        rf"\b(?i:signed|dictated|transcribed|reviewed|seen|examined|referred)[ \t]+(?i:by)[ \t]*:?"
        rf"[ \t]*(?P<x>(?!(?:{_TITLE})\b){_NAME})",
        0,
    ),
    (
        "name before a degree",
        "NAME",
        rf"\b(?P<x>{_WORD}(?:[ \t]+(?:[A-Z]\.[ \t]*)?{_WORD}){{1,2}}),?[ \t]+"
        r"(?:M\.?D|D\.?O|O\.?D|Ph\.?D|R\.?N|N\.?P|P\.?A|FRCS|FACS|MPH)\b",
        0,
    ),
)
_COMMON = """
a an the is was has had no not none unknown male female man woman m f he she his her pt
patient history reports denies presents states here with and for of in on at to seen by
reviewed yes age date dob name exam assessment plan diagnosis normal stable same self glaucoma
cataract eye eyes left right both od os ou follow return clinic md np pa rn do phd dr doctor
mr mrs ms miss mx prof professor rev nurse sister mrn ssn id acct account phone tel fax cell
email address
"""
_NO_NAMES = frozenset(_COMMON.split())
_AGAIN = "name again"


class Rules:
    """Finds pieces of an English note by rules.

    What was found to be part of a name is a name wherever it stands in the same note.
    """

    def __init__(self) -> None:
        self._rules = [
            (name, tag, re.compile(pattern, flags)) for name, tag, pattern, flags in _RULES
        ]

    def find(self, text: str) -> list[Span]:
        """Return every piece that a rule fits; they may overlap."""
        found = [span for rule in self._rules for span in _fitting(*rule, text)]
        return [*found, *_again(found, text)]

    def facts(self) -> dict[str, Any]:
        """Return what it is and what it does not look for."""
        names = list(dict.fromkeys(name for name, *_ in _RULES))
        return {
            "name": "rules",
            "language": LANGUAGE,
            "recognisers": [*names, _AGAIN],
            "not_looked_for": list(MISSED),
        }


def _fitting(name: str, tag: str, pattern: re.Pattern[str], text: str) -> Iterator[Span]:
    group = "x" if "x" in pattern.groupindex else 0
    for match in pattern.finditer(text):
        start, end = match.span(group)
        if tag == "NAME":
            start, end = _name_in(text, start, end)
        if end > start:
            yield Span(start, end, tag, f"rules.{name}")


def _name_in(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the part of a piece up to the first word that is no name."""
    stop = start
    for word in re.finditer(r"[\w'’-]+\.?", text[start:end]):
        plain = word[0].rstrip(".").lower()
        initial = len(plain) == 1 and word[0].endswith(".")
        if plain in _NO_NAMES and not initial:
            break
        stop = start + word.end()
    return start, stop


def _again(found: Sequence[Span], text: str) -> Iterator[Span]:
    names = {
        re.sub(r"['’]s\Z", "", word)
        for span in found
        if span.tag == "NAME"
        for word in re.findall(r"[\w'’-]{3,}", text[span.start : span.end])
    }
    if not names:
        return
    listed = "|".join(re.escape(name) for name in sorted(names, key=lambda n: (-len(n), n)))
    for match in re.finditer(rf"(?<![\w])(?:{listed})(?!\w)", text):
        yield Span(*match.span(), "NAME", f"rules.{_AGAIN}")
