"""The sizes of BLIP's parts, as models' `config.json` have them. Nothing here needs torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from fairtune.config import Config
from fairtune.config.model import carried
from fairtune.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Above = Annotated[float, Field(gt=0)]


class VisionSizes(Config):
    """Sizes of the image tower, a ViT.

    Attributes:
        hidden_size: Length of a token.
        intermediate_size: Width of the MLPs.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads of a block.
        patch_size: Side of a patch in pixels.
        layer_norm_eps: Added to the variance.
    """

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    patch_size: Count
    layer_norm_eps: Above = 1e-6

    @model_validator(mode="after")
    def _heads_fit(self) -> VisionSizes:
        _divides(self.num_attention_heads, self.hidden_size)
        return self


class TextSizes(Config):
    """Sizes of a BERT that may also look at an image.

    Attributes:
        vocab_size: Token numbers.
        hidden_size: Length of a token.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads of a block.
        intermediate_size: Width of the MLPs.
        max_position_embeddings: Most tokens of a text.
        layer_norm_eps: Added to the variance.
        dropout: Share of values dropped in training, of hidden states and of attention.
    """

    vocab_size: Count
    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    intermediate_size: Count
    max_position_embeddings: Count = 512
    layer_norm_eps: Above = 1e-12
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _heads_fit(self) -> TextSizes:
        _divides(self.num_attention_heads, self.hidden_size)
        return self


class QFormerSizes(TextSizes):
    """Sizes of a Q-Former, a BERT that reads texts and, through queries, images.

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


def _divides(heads: int, hidden: int) -> None:
    if hidden % heads:
        raise carried(
            ConfigError(
                "the heads do not divide 'hidden_size'",
                found=heads,
                allowed=f"a divisor of {hidden}",
            ),
            "num_attention_heads",
        )
