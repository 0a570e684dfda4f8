"""A SigLIP model of transformers: image and text in one joint space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from fairtune.config import Config
from fairtune.models.registries import LOADERS
from fairtune.models.sizes import ImageSizes, TextSizes, check_limit

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.models.made import Make
    from fairtune.models.spec import ModelSpec

POSITION = "image.vision_model.embeddings.position_embedding.weight"


@LOADERS.register("siglip")
class Siglip(Config):
    """Both towers of transformers' `SiglipModel`; the spec's `architecture` is their title.

    The sizes stand here, as in the model's `config.json`, so that units can be listed without a
    model hub. An image's embedding is what attention pools of its tokens.

    Attributes:
        image: Sizes of the image tower (`vision_config`).
        text: Sizes of the text tower (`text_config`).
        scale: Factor of cosines of a model with random values.
        bias: Added to scaled cosines of one.
    """

    positions: ClassVar[Mapping[str, int]] = {POSITION: 0}

    image: ImageSizes
    text: TextSizes
    scale: Annotated[float, Field(gt=0)] = 10.0
    bias: float = -10.0

    def renamed(self, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Return tensors of the hub under the names that they have here."""
        from fairtune.models import clip

        return clip.renamed(tensors)

    def make(self, spec: ModelSpec, side: int) -> Make:
        """Return what makes the network, see `Maker.make`."""
        from fairtune.models import siglip

        check_limit(spec, self.text.max_position_embeddings)
        return lambda: siglip.pair(self, spec, side)
