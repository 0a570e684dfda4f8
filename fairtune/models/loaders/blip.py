"""BLIP with both towers, with weights of transformers' class for retrieval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fairtune.config import Config
from fairtune.models.blip_sizes import ReaderSizes, check_channels
from fairtune.models.registries import LOADERS
from fairtune.models.sizes import Count, ImageSizes, check_limit

if TYPE_CHECKING:
    from torch import Tensor, nn

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

    image: ImageSizes
    text: ReaderSizes
    dim: Count = 256
    scale: Annotated[float, Field(gt=0)] = 1 / 0.07

    @property
    def identity(self) -> str | None:
        """No endpoint."""
        return None

    @property
    def checkpoint(self) -> Path | None:
        """No file of the user's own."""
        return None

    def beside(self, folder: Path) -> BlipModel:
        """Return the loader itself: it names no file."""
        return self

    def outline(self, spec: ModelSpec, image_size: int) -> nn.Module:
        """Return the network without values, on the meta device."""
        from fairtune.models import made

        return made.outline(self._make(spec, image_size))

    def seeded(self, spec: ModelSpec, image_size: int, seed: int) -> nn.Module:
        """Return the network with random values; the caller's RNG is not touched."""
        from fairtune.models import made

        return made.seeded(self._make(spec, image_size), seed)

    def filled(self, spec: ModelSpec, image_size: int | None, file: Path) -> nn.Module:
        """Return the network with the tensors of `file`, named as on the hub or as here."""
        from fairtune.models import made

        make = self._make(spec, spec.side(image_size))
        return made.filled(make, spec, file, lambda t: self.renamed(t, file.name), {POSITION: 1})

    def renamed(self, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Return tensors of the hub under the names that they have here."""
        from fairtune.models import blip

        return blip.renamed(tensors, self.scale)

    def _make(self, spec: ModelSpec, side: int) -> Make:
        from fairtune.models import blip

        check_channels(spec)
        check_limit(spec, self.text.max_position_embeddings)
        return lambda: blip.network(self, spec, side)
