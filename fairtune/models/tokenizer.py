"""Texts as token numbers: where a tokenizer's file comes from, and how long texts are cut."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fairtune import store
from fairtune.config import Settings, digest
from fairtune.errors import FairtuneError, ModelError
from fairtune.models.tokenizer_rule import TokenizerRule

if TYPE_CHECKING:
    from fairtune.models.spec import ModelSpec

SHELF = "tokenizers"
_PADDED = -1
_FILE = "tokenizer"
_WHERE = ("file", "sources")


@dataclass(eq=False)
class Tokenizer:
    """Turns texts into token numbers.

    Attributes:
        rule: Limit and padding.
        sha: Digest of its file, of the rule and of what is made of the tokens, wherever the file
            comes from.
        cut: Texts that were longer than the limit and were cut, at a word.
    """

    rule: TokenizerRule
    sha: str
    _made: Any
    cut: int = field(default=0)
    _clean: Callable[[str], str] = str

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return `(texts, length)` token numbers, -1 behind the end of a text.

        A text of more tokens than the limit is cut at the last word that fits, or within its
        first word where that alone is too long; special tokens stay.
        """
        rows = [self._one(self._clean(text)) for text in texts]
        longest = max(map(len, rows), default=0)
        length, fill = longest, _PADDED
        if self.rule.pad == "limit":
            length, fill = self.rule.limit, self._padding()
        out = np.full((len(rows), length), fill, dtype=np.int64)
        for place, row in zip(out, rows):
            place[: len(row)] = row
        return out

    def _one(self, text: str) -> list[int]:
        found: list[int] = self._made.encode(text).ids
        if len(found) <= self.rule.limit:
            return found
        self.cut += 1
        plain = self._made.encode(text, add_special_tokens=False)
        room = self.rule.limit - (len(found) - len(plain.ids))
        while room > 0:
            end = plain.offsets[room][0]
            kept = text[:end]
            if end and not text[end - 1].isspace() and any(c.isspace() for c in kept.strip()):
                kept = kept.rstrip().rsplit(None, 1)[0]
            found = self._made.encode(kept.rstrip()).ids
            if len(found) <= self.rule.limit:
                return found
            room -= 1
        return found[: self.rule.limit]

    def _padding(self) -> int:
        token = self.rule.pad_token
        number = None if token is None else self._made.token_to_id(token)
        if number is None:
            raise ModelError(
                "the tokenizer has no such token to pad with",
                where="tokenizer.pad_token",
                found=token,
            )
        return int(number)


def load(spec: ModelSpec, settings: Settings) -> Tokenizer:
    """Return the tokenizer of `spec`, fetching its file where the cache has none.

    Raises:
        ModelError: The model reads no texts, no source has the file, or it cannot be read.
    """
    rule = spec.tokenizer
    if rule is None:
        raise ModelError(
            f"model '{spec.name}' reads no texts",
            where=f"model '{spec.name}' (tokenizer)",
            todo="name a model with a text tower, or give its spec a 'tokenizer'",
        )
    if rule.kind == "open_clip":
        from fairtune.models import clip_words

        content = clip_words.content(spec)
        made = clip_words.made(content)
        return Tokenizer(rule, _named(spec, rule, content), made, _clean=clip_words.cleaned)
    content = _content(spec, rule, settings)
    return Tokenizer(rule, _named(spec, rule, content), _made(spec, rule, content))


def _named(spec: ModelSpec, rule: TokenizerRule, content: bytes) -> str:
    how = {name: value for name, value in rule.to_json().items() if name not in _WHERE}
    # What a text tower makes of its tokens is told the loader; where files lie is no part of it.
    told = {k: v for k, v in spec.loader.to_json().items() if k not in ("image", "file")}
    return digest([how, hashlib.sha256(content).hexdigest(), told])


def cached(spec: ModelSpec, settings: Settings) -> str | None:
    """Return where the tokenizer's file is had from without asking any source, or None.

    Args:
        spec: A model with a tokenizer.
        settings: Where the store is.
    """
    rule = spec.tokenizer
    assert rule is not None
    if rule.kind == "open_clip":
        there = all(importlib.util.find_spec(name) for name in ("open_clip", "ftfy"))
        return "the package open_clip_torch" if there else None
    if rule.file is not None:
        return f"file {rule.file.name}" if rule.file.is_file() else None
    for source in rule.sources:
        if store.is_whole(settings.cache / SHELF / _key(source)):
            return str(source.label())
    return None


def _key(source: Any) -> str:
    return digest([source.label(), source.to_json()])


def _content(spec: ModelSpec, rule: TokenizerRule, settings: Settings) -> bytes:
    if rule.file is not None:
        try:
            return rule.file.read_bytes()
        except OSError as error:
            raise ModelError(
                f"the tokenizer of model '{spec.name}' cannot be read",
                where="tokenizer.file",
                found=f"{rule.file}: {error.strerror}",
            ) from None
    tried: list[str] = []
    for source in rule.sources:
        key = _key(source)

        def make(folder: Path, source: Any = source) -> None:
            (folder / _FILE).write_bytes(source.content(spec, settings))

        try:
            folder = store.get_or_make(
                SHELF, key, make, root=settings.cache, cap_gib=settings.cache_gib
            )
        except FairtuneError as error:
            tried.append(f"{source.label()}: {error.what}")
            continue
        return (folder / _FILE).read_bytes()
    lines = tried or ["sources: the model's file names none"]
    raise ModelError(
        f"no tokenizer for model '{spec.name}'; tried" + "".join(f"\n    - {x}" for x in lines),
        where=f"model '{spec.name}' (tokenizer)",
        todo="give tokenizer.file in its spec: the tokenizer.json or vocab.txt of the text tower",
    )


def _made(spec: ModelSpec, rule: TokenizerRule, content: bytes) -> Any:
    try:
        from tokenizers import BertWordPieceTokenizer
        from tokenizers import Tokenizer as Fast
    except ImportError:
        raise ModelError(
            f"model '{spec.name}' needs the package tokenizers",
            where="tokenizer",
            todo="pip install 'fairtune[clip]'",
        ) from None
    try:
        if rule.kind == "json":
            made = Fast.from_str(content.decode())
            made.no_truncation()
            made.no_padding()
            return made
        words = content.decode().splitlines()
        return BertWordPieceTokenizer(
            vocab={word: i for i, word in enumerate(words)}, lowercase=rule.lower
        )
    except Exception as error:  # tokenizers raises plain Exception
        raise ModelError(
            f"the tokenizer of model '{spec.name}' cannot be read",
            where="tokenizer",
            found=str(error).splitlines()[0],
            allowed="a tokenizer.json (kind: json), or a vocab.txt (kind: wordpiece)",
        ) from None
