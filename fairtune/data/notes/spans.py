"""Pieces of a note that tell who it is about, and their replacement by tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol


@dataclass(frozen=True)
class Span:
    """A piece of a text that is to be replaced.

    Attributes:
        start: Its first letter.
        end: The letter after its last.
        tag: What it is, in capitals: `DATE`, `NAME`.
        by: What found it, `FINDER.RECOGNISER`.
    """

    start: int
    end: int
    tag: str
    by: str


class Finder(Protocol):
    """Finds what is to be replaced."""

    def find(self, text: str) -> Sequence[Span]:
        """Return pieces of a text, in any order; they may overlap."""

    def facts(self) -> dict[str, Any]:
        """Return what it is and what it does not look for, for the record, as JSON values."""


def merged(spans: Sequence[Span]) -> list[Span]:
    """Return spans in their order, of which none overlap, that cover all that `spans` cover.

    Spans that overlap become one, called as the longest of them, the first of equal ones: no part
    of what any finder found stays in the text.
    """
    out: list[Span] = []
    longest = 0
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        length = span.end - span.start
        if out and span.start < out[-1].end:
            last = out[-1]
            named = span if length > longest else last
            longest = max(longest, length)
            out[-1] = replace(named, start=last.start, end=max(last.end, span.end))
        elif length > 0:
            out.append(span)
            longest = length
    return out


def tagged(text: str, spans: Sequence[Span]) -> str:
    """Return `text` with each of `merged` spans replaced by its tag, as in `<DATE>`."""
    parts, place = [], 0
    for span in spans:
        parts += [text[place : span.start], f"<{span.tag}>"]
        place = span.end
    return "".join([*parts, text[place:]])
