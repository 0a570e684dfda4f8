"""A CLIP model of transformers: image and text in one joint space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from fairtune.config import Config
from fairtune.models.registries import LOADERS
from fairtune.models.sizes import Count, ImageSizes, TextSizes, check_limit

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.models.made import Make
    from fairtune.models.spec import ModelSpec

POSITION = "image.vision_model.embeddings.position_embedding.weight"


@LOADERS.register("clip")
class Clip(Config):
    """Both towers of transformers' `CLIPModel`; the spec's `architecture` is their title.

    The sizes stand here, as in the model's `config.json`, so that units can be listed without a
    model hub. An image's embedding is the projected one, of the joint space.

    Attributes:
        image: Sizes of the image tower (`vision_config`).
        text: Sizes of the text tower (`text_config`).
        dim: Length of the joint space (`projection_dim`).
        eos_token_id: Token whose state is the text's, the first one of a text. A `config.json` of
            before June 2023 says 2, which stands for the highest token of a text.
        scale: Factor of cosines of a model with random values.
    """

    positions: ClassVar[Mapping[str, int]] = {POSITION: 1}

    image: ImageSizes
    text: TextSizes
    dim: Count
    eos_token_id: Annotated[int, Field(ge=0)] = 49407
    scale: Annotated[float, Field(gt=0)] = 1 / 0.07

    def renamed(self, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Return tensors of the hub under the names that they have here."""
        from fairtune.models import clip

        return clip.renamed(tensors)

    def make(self, spec: ModelSpec, side: int) -> Make:
        """Return what makes the network, see `Maker.make`."""
        from fairtune.models import clip

        check_limit(spec, self.text.max_position_embeddings)
        return lambda: clip.pair(self, spec, side)
