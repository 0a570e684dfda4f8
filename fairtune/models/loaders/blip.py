"""BLIP with both towers, with weights of transformers' class for retrieval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from fairtune.config import Config
from fairtune.models.blip_sizes import ReaderSizes, check_channels
from fairtune.models.registries import LOADERS
from fairtune.models.sizes import Count, ImageSizes, check_limit

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.models.made import Make
    from fairtune.models.spec import ModelSpec

POSITION = "image.vision_model.embeddings.position_embedding"


@LOADERS.register("blip")
class BlipModel(Config):
    """transformers' `BlipForImageTextRetrieval`; the spec's `architecture` is its title.

    The sizes stand here, as in the model's `config.json`, so that units can be listed without a
    model hub.

    Attributes:
        image: Sizes of the image tower.
        text: Sizes of the text tower.
        dim: Length of the joint space.
        scale: Factor of cosines, 1 / temperature, which weights of that class do not hold.
    """

    positions: ClassVar[Mapping[str, int]] = {POSITION: 1}

    image: ImageSizes
    text: ReaderSizes
    dim: Count = 256
    scale: Annotated[float, Field(gt=0)] = 1 / 0.07

    def renamed(self, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Return tensors of the hub under the names that they have here."""
        from fairtune.models import blip

        return blip.renamed(tensors, self.scale)

    def make(self, spec: ModelSpec, side: int) -> Make:
        """Return what makes the network, see `Maker.make`."""
        from fairtune.models import blip

        check_channels(spec)
        check_limit(spec, self.text.max_position_embeddings)
        return lambda: blip.network(self, spec, side)
