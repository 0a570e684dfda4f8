"""Texts beside the images: what is taken out of them, where they are cut, and rows without one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pydantic

from fairtune.config import Config
from fairtune.config.model import carried
from fairtune.data.raw import Raw
from fairtune.data.values import BoolArray
from fairtune.errors import ConfigError, DataError


class Pattern(Config):
    """A regular expression whose matches, in capitals or not, are taken out of a text.

    Attributes:
        pattern: The expression, in the syntax of Python's `re`.
    """

    pattern: str

    @pydantic.model_validator(mode="after")
    def _compiles(self) -> Pattern:
        try:
            found = re.compile(self.pattern)
        except re.error as error:
            problem = ConfigError(f"not a regular expression: {error}", found=self.pattern)
            raise carried(problem, "pattern") from None
        if found.search("") is not None:
            problem = ConfigError("this pattern finds itself in an empty text", found=self.pattern)
            raise carried(problem, "pattern")
        return self


class TextRule(Config):
    """How the text of a row is read.

    Attributes:
        column: Column with the text, or a derived one.
        cut: Most characters. Of what is longer this many are taken, and of these what stands
            before the last blank, so that no word is cut in two (as FairCLIP's released code does
            at 180); only a first word that alone is longer is cut inside.
        missing: What rows without a word are where texts are used: `refuse` says which they are,
            `drop` leaves them out and counts them.
        strip: Words and phrases, or `{pattern: REGEX}`, that are taken out in this order, before
            the cut. A word is found in capitals or not, and only as a whole.
    """

    column: str
    cut: int | None = pydantic.Field(default=None, ge=1)
    missing: Literal["refuse", "drop"] = "refuse"
    strip: tuple[str | Pattern, ...] = ()

    @pydantic.model_validator(mode="after")
    def _words(self) -> TextRule:
        for index, word in enumerate(self.strip):
            if isinstance(word, str) and not word.strip():
                raise carried(ConfigError("this word is empty", found=word), "strip", index)
        return self

    def apply(self, texts: Iterable[str]) -> Wording:
        """Return the texts as they are used, and what was done to them.

        Where something is taken out or cut, every run of white space becomes one blank.
        """
        words = [(_named(word), _compiled(word)) for word in self.strip]
        done: dict[str, tuple[str, bool, list[int]]] = {}
        used, cut = [], 0
        times, rows = [0] * len(words), [0] * len(words)
        for text in texts:
            if text not in done:
                done[text] = self._one(text, [pattern for _, pattern in words])
            short, was_cut, counts = done[text]
            used.append(short)
            cut += was_cut
            for i, n in enumerate(counts):
                times[i] += n
                rows[i] += n > 0
        return Wording(
            used=tuple(used),
            cut=cut,
            found=tuple(
                Found(name, *counts) for (name, _), *counts in zip(words, times, rows, strict=True)
            ),
        )

    def _one(self, text: str, patterns: list[re.Pattern[str]]) -> tuple[str, bool, list[int]]:
        times = []
        for pattern in patterns:
            text, n = pattern.subn(" ", text)
            times.append(n)
        if patterns or self.cut is not None:
            text = " ".join(text.split())
        if self.cut is None or len(text) <= self.cut:
            return text, False, times
        short = text[: self.cut]
        return short.rpartition(" ")[0] or short, True, times


@dataclass(frozen=True)
class Found:
    """How often one word or pattern of `strip` was found.

    Attributes:
        name: The word, or the pattern between slashes.
        times: Places in all texts.
        rows: Rows with at least one.
    """

    name: str
    times: int
    rows: int


@dataclass(frozen=True)
class Wording:
    """Texts as they are used.

    Attributes:
        used: One text per row.
        cut: Rows whose text was cut.
        found: What was taken out, by entry of `strip`.
    """

    used: tuple[str, ...]
    cut: int
    found: tuple[Found, ...]

    @property
    def bare(self) -> BoolArray:
        """`(n,)`: which rows have no text, that is no word."""
        return np.array([not has_word(text) for text in self.used], dtype=bool)


def with_texts(
    rule: TextRule, raw: Raw, kept: BoolArray, wanted: bool
) -> tuple[list[str], BoolArray, Wording]:
    """Return the texts of all rows, which rows stay, and what was done to the texts.

    Args:
        rule: How texts are read.
        raw: The rows.
        kept: `(n,)` rows that are used; texts of the others are empty.
        wanted: Whether a row without a text is of no use.

    Raises:
        DataError: Rows without a text, where the rule refuses them.
    """
    wording = rule.apply(raw.frame[rule.column][kept].astype(str))
    out = np.full(len(raw), "", dtype=object)
    out[kept] = list(wording.used)
    bare = np.zeros(len(raw), dtype=bool)
    bare[kept] = wording.bare
    if not wanted or not bare.any():
        return out.tolist(), kept, wording
    if rule.missing == "refuse":
        emptied = sum(map(has_word, raw.frame[rule.column][bare]))
        some = f", {emptied} of them only once words were taken out" if emptied else ""
        raise DataError(
            f"rows without a text in '{rule.column}'",
            where=raw.where(bare),
            found=f"{int(bare.sum())} of {int(kept.sum())} rows{some}",
            todo="write the texts, or `missing: drop` under 'text' to leave these rows out",
        )
    return out.tolist(), kept & ~bare, wording


def has_word(text: str) -> bool:
    """Tell whether a text has a letter or a digit; `.` is what may be left of "Pneumonia."."""
    return re.search(r"\w", text) is not None


def _named(word: str | Pattern) -> str:
    return f"/{word.pattern}/" if isinstance(word, Pattern) else word


def _compiled(word: str | Pattern) -> re.Pattern[str]:
    if isinstance(word, Pattern):
        return re.compile(word.pattern, re.IGNORECASE)
    return re.compile(whole(word), re.IGNORECASE)


def whole(phrase: str) -> str:
    """Return a regular expression for a phrase as whole words, however they are spaced."""
    parts = map(re.escape, phrase.split())
    return r"(?<!\w)" + r"\s+".join(parts) + r"(?!\w)"


def as_rule(value: Any) -> Any:
    """Return the short form, the name of a column, as the mapping it stands for."""
    return {"column": value} if isinstance(value, str) else value
