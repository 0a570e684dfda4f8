"""How a model's text tower reads texts, as its spec declares it. Nothing here needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fairtune.config import Config
from fairtune.models.registries import SOURCES


class TokenizerRule(Config):
    """How a model's text tower reads texts.

    Attributes:
        limit: Most tokens of a text, special ones included.
        kind: `json`, a file of the package tokenizers (`tokenizer.json` on model hubs), or
            `wordpiece`, the vocabulary of a BERT, one token a line (`vocab.txt`). `open_clip` is
            CLIP's own, which comes with the package open_clip_torch and needs no file.
        lower: Texts are lower-cased; of `wordpiece` alone, as a `json` says so itself.
        pad: `longest` pads to the longest text of a batch, and padding is not attended to;
            `limit` to the limit with the token `pad_token`, which is (SigLIP).
        pad_token: The token that pads to the limit.
        file: A file beside the spec, in place of `sources`.
        sources: Where the file comes from, tried in this order: a wheel, a model hub.
    """

    limit: Annotated[int, Field(ge=3)]
    kind: Literal["json", "wordpiece", "open_clip"] = "json"
    lower: bool = True
    pad: Literal["longest", "limit"] = "longest"
    pad_token: str | None = None
    file: Path | None = None
    sources: tuple[Annotated[Any, SOURCES.field()], ...] = ()

    def beside(self, folder: Path) -> TokenizerRule:
        """Return the rule with its file looked up from `folder`."""
        if self.file is None:
            return self
        return self.model_copy(update={"file": folder / self.file.expanduser()})
