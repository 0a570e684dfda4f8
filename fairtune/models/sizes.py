"""Sizes of transformers' networks as a model's YAML declares them. Nothing here needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from fairtune.config import Config
from fairtune.config.model import carried
from fairtune.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from fairtune.models.spec import ModelSpec

Count = Annotated[int, Field(ge=1)]


class Sizes(Config):
    """The sizes of one tower, as in the model's `config.json`.

    Attributes:
        hidden_size: Length of a token.
        intermediate_size: Width of the MLPs.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads of a block.
        hidden_act: Activation of the MLPs; None for that of the family.
        layer_norm_eps: Added to the variance; None for that of the family.
    """

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    hidden_act: str | None = None
    layer_norm_eps: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _heads_fit(self) -> Sizes:
        if self.hidden_size % self.num_attention_heads:
            raise carried(
                ConfigError(
                    "the heads do not divide 'hidden_size'",
                    found=self.num_attention_heads,
                    allowed=f"a divisor of {self.hidden_size}",
                ),
                "num_attention_heads",
            )
        return self


class ImageSizes(Sizes):
    """The sizes of an image tower.

    Attributes:
        patch_size: Side of a patch in pixels.
    """

    patch_size: Count


class TextSizes(Sizes):
    """The sizes of a text tower.

    Attributes:
        vocab_size: Token numbers.
        max_position_embeddings: Most tokens of a text.
    """

    vocab_size: Count
    max_position_embeddings: Count


def check_limit(spec: ModelSpec, positions: int) -> None:
    """Refuse a tokenizer that lets a text be longer than the text tower has positions.

    Raises:
        ModelError: It does.
    """
    if spec.tokenizer is not None and spec.tokenizer.limit > positions:
        raise ModelError(
            "the tokenizer's limit is above what the text tower reads",
            where=f"model '{spec.name}' (tokenizer.limit)",
            found=spec.tokenizer.limit,
            allowed=f"at most {positions}",
        )
