"""Sizes of the parts of BLIP that read texts. Nothing here needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from fairtune.config.model import carried
from fairtune.errors import ConfigError, ModelError
from fairtune.models.sizes import Count, TextSizes

if TYPE_CHECKING:
    from fairtune.models.spec import ModelSpec


class ReaderSizes(TextSizes):
    """The sizes of a BERT that may also look at an image.

    Attributes:
        dropout: Share of values dropped in training, of hidden states and of attention.
    """

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class QFormerSizes(ReaderSizes):
    """The sizes of a Q-Former, a BERT that reads texts and, through queries, images.

    Attributes:
        num_query_tokens: Queries.
        cross_attention_frequency: Of how many blocks the first has queries look at the image.
        bos_token_id: The token that stands first in a caption, `[DEC]`.
    """

    num_query_tokens: Count = 32
    cross_attention_frequency: Count = 2
    bos_token_id: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _has_its_token(self) -> QFormerSizes:
        if self.bos_token_id >= self.vocab_size:
            raise carried(
                ConfigError(
                    "the vocabulary has no such token",
                    found=self.bos_token_id,
                    allowed=f"0 to {self.vocab_size - 1}",
                ),
                "bos_token_id",
            )
        return self


def check_channels(spec: ModelSpec) -> None:
    """Refuse other images than of three channels, which BLIP's image towers are built for.

    Raises:
        ModelError: The spec declares others.
    """
    if spec.channels != 3:
        raise ModelError(
            "the image tower reads three channels",
            where=f"model '{spec.name}' (channels)",
            found=spec.channels,
            allowed=3,
        )
