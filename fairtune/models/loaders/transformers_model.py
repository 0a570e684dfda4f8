"""The vision tower of a CLIP model of transformers, with weights from the spec's sources."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from fairtune.config import Config
from fairtune.config.model import carried
from fairtune.errors import ConfigError
from fairtune.models.registries import LOADERS

if TYPE_CHECKING:
    from torch import nn

    from fairtune.models.spec import ModelSpec

Count = Annotated[int, Field(ge=1)]


@LOADERS.register("transformers")
class TransformersModel(Config):
    """A network of transformers' class `CLIPVisionModel`; the spec's `architecture` is its title.

    The sizes stand here, as in the model's `config.json`, so that units can be listed without a
    model hub.

    Attributes:
        hidden_size: Length of a token.
        intermediate_size: Width of the MLPs.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads of a block.
        patch_size: Side of a patch in pixels.
        hidden_act: Activation of the MLPs.
        layer_norm_eps: Added to the variance.
    """

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    patch_size: Count
    hidden_act: str = "quick_gelu"
    layer_norm_eps: Annotated[float, Field(gt=0)] = 1e-5

    @model_validator(mode="after")
    def _heads_fit(self) -> TransformersModel:
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

    @property
    def identity(self) -> str | None:
        """No endpoint."""
        return None

    @property
    def checkpoint(self) -> Path | None:
        """No file of the user's own."""
        return None

    def beside(self, folder: Path) -> TransformersModel:
        """Return the loader itself: it names no file."""
        return self

    def outline(self, spec: ModelSpec, image_size: int) -> nn.Module:
        """See `clip.outline`."""
        from fairtune.models import clip

        return clip.outline(self.to_json(), spec, image_size)

    def seeded(self, spec: ModelSpec, image_size: int, seed: int) -> nn.Module:
        """See `clip.seeded`."""
        from fairtune.models import clip

        return clip.seeded(self.to_json(), spec, image_size, seed)

    def filled(self, spec: ModelSpec, image_size: int | None, file: Path) -> nn.Module:
        """See `clip.filled`."""
        from fairtune.models import clip

        return clip.filled(self.to_json(), spec, image_size, file)
