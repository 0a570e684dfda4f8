"""What a check says of texts and prompts, without showing a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fairtune.data.prompts import ClassPrompts
from fairtune.data.table import Table
from fairtune.data.text import Found, has_word

_WORD = re.compile(r"\w(?:[\w-]*\w)?")
_SHORTEST = 3
# They stand in any text and say nothing of a class.
_COMMON = frozenset(
    {"absence", "absent", "and", "another", "any", "are", "for", "free", "from", "has", "have"}
    | {"negative", "non", "not", "other", "rest", "sign", "signs", "than", "that", "the", "this"}
    | {"with", "without"}
)


@dataclass(frozen=True)
class TextReport:
    """The texts of a table as they are used; those of test rows count too, without their labels.

    Attributes:
        rows: Rows of the table.
        texts: Rows with a text.
        median: Median length of the texts in characters.
        longest: Longest text in characters.
        cut: Rows whose text was cut.
        found: What was taken out of the texts, by entry of `strip`.
        leaks_label: Whether the spec says that the label was known to whoever wrote them.
    """

    rows: int
    texts: int
    median: float
    longest: int
    cut: int
    found: tuple[Found, ...]
    leaks_label: bool


@dataclass(frozen=True)
class PromptReport:
    """The prompts of a target, and its words in the texts.

    Attributes:
        sentences: Sentences per class; for a multilabel target per answer of each label.
        doubts: What may be wrong with them; see `ClassPrompts.doubts`.
        words: Rows whose text has a word that starts as one of a class's name or phrases does, by
            that word, most frequent first.
    """

    sentences: Mapping[str, int]
    doubts: tuple[str, ...]
    words: Mapping[str, int]


def describe_texts(table: Table) -> TextReport | None:
    """Return what the texts of `table` are like, or None where it has none."""
    if table.wording is None:
        return None
    lengths = [len(text) for text in table.frame["text"] if has_word(text)]
    return TextReport(
        rows=len(table),
        texts=len(lengths),
        median=float(np.median(lengths)) if lengths else 0.0,
        longest=max(lengths, default=0),
        cut=table.wording.cut,
        found=table.wording.found,
        leaks_label=table.spec.text_leaks_label,
    )


def describe_prompts(table: Table) -> PromptReport:
    """Return the prompts of the target of `table`, and the rows whose text has its words."""
    spoken, sentences, doubts = [*table.classes], {}, []
    if table.target in table.spec.prompts:
        prompts = table.spec.prompts_of(table.target)
        sentences = dict(zip(_sides(table), map(len, _by_class(prompts)), strict=True))
        doubts = prompts.doubts(table.classes, table.task)
        spoken += [phrase for own in prompts.classes for phrase in own]
    texts = table.frame["text"].tolist() if "text" in table.frame else []
    return PromptReport(sentences, tuple(doubts), count_words(telling_words(spoken), texts))


def telling_words(spoken: Iterable[str]) -> list[str]:
    """Return the words of class names and phrases that may say which class is meant."""
    words = {
        word.removeprefix("non-")
        for phrase in spoken
        for word in _WORD.findall(phrase.casefold().replace("_", " "))
    }
    return sorted(w for w in words - _COMMON if len(w) >= _SHORTEST and not w.isdigit())


def count_words(words: Iterable[str], texts: Iterable[str]) -> dict[str, int]:
    """Return the number of texts that have a word beginning with each of `words`, if any has."""
    plain = [text.casefold() for text in texts]
    counts = {
        word: sum(re.search(rf"(?<!\w){re.escape(word)}", text) is not None for text in plain)
        for word in words
    }
    return {w: n for w, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])) if n}


def _sides(table: Table) -> list[str]:
    if table.task != "multilabel":
        return list(table.classes)
    return [f"{name} {side}" for name in table.classes for side in ("absent", "present")]


def _by_class(prompts: ClassPrompts) -> list[list[str]]:
    groups: list[list[str]] = [[] for _ in prompts.classes]
    for index, sentence in prompts.sentences():
        groups[index].append(sentence)
    return groups
