"""BLIP-2's image tower and Q-Former, with weights of transformers' class for retrieval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from fairtune.config import Config
from fairtune.models.blip_sizes import QFormerSizes, check_channels
from fairtune.models.registries import LOADERS
from fairtune.models.sizes import Count, ImageSizes, check_limit

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.models.made import Make
    from fairtune.models.spec import ModelSpec

POSITION = "image.vision_model.embeddings.position_embedding"
Embedding = Literal["first", "mean", "max", "flatten"]


@LOADERS.register("blip2")
class Blip2Model(Config):
    """transformers' `Blip2ForImageTextRetrieval`; the spec's `architecture` is its title.

    The sizes stand here, as in the model's `config.json`, so that units can be listed without a
    model hub.

    Attributes:
        image: Sizes of the image tower.
        qformer: Sizes of the Q-Former, which reads texts too.
        dim: Length of the joint space.
        embedding: What a head reads of an image: the `first` query, the `mean` or `max` over the
            queries, or all of them one behind the other (`flatten`).
        scale: Factor of cosines, 1 / temperature, which weights of that class do not hold.
    """

    positions: ClassVar[Mapping[str, int]] = {POSITION: 1}

    image: ImageSizes
    qformer: QFormerSizes
    dim: Count = 256
    embedding: Embedding = "first"
    scale: Annotated[float, Field(gt=0)] = 1 / 0.07

    def renamed(self, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Return tensors of the hub under the names that they have here."""
        from fairtune.models import blip2

        return blip2.renamed(tensors, self)

    def make(self, spec: ModelSpec, side: int) -> Make:
        """Return what makes the network, see `Maker.make`."""
        from fairtune.models import blip2

        check_channels(spec)
        check_limit(spec, self.qformer.max_position_embeddings)
        return lambda: blip2.network(self, spec, side)
