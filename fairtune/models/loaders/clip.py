"""A CLIP model of transformers: image and text in one joint space."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fairtune.config import Config
from fairtune.models.registries import LOADERS
from fairtune.models.sizes import Count, ImageSizes, TextSizes, check_limit

if TYPE_CHECKING:
    from torch import Tensor, nn

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

    image: ImageSizes
    text: TextSizes
    dim: Count
    eos_token_id: Annotated[int, Field(ge=0)] = 49407
    scale: Annotated[float, Field(gt=0)] = 1 / 0.07

    @property
    def identity(self) -> str | None:
        """No endpoint."""
        return None

    @property
    def checkpoint(self) -> Path | None:
        """No file of the user's own."""
        return None

    def beside(self, folder: Path) -> Clip:
        """Return the loader itself: it names no file."""
        return self

    def outline(self, spec: ModelSpec, image_size: int) -> nn.Module:
        """Return both towers without values, on the meta device."""
        from fairtune.models import made

        return made.outline(self._make(spec, image_size))

    def seeded(self, spec: ModelSpec, image_size: int, seed: int) -> nn.Module:
        """Return both towers with transformers' random values."""
        from fairtune.models import made

        return made.seeded(self._make(spec, image_size), seed)

    def filled(self, spec: ModelSpec, image_size: int | None, file: Path) -> nn.Module:
        """Return both towers with the tensors of `file`, named as on the hub or as here."""
        from fairtune.models import clip, made

        make = self._make(spec, spec.side(image_size))
        return made.filled(make, spec, file, clip.renamed, {POSITION: 1})

    def renamed(self, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Return tensors of the hub under the names that they have here."""
        from fairtune.models import clip

        return clip.renamed(tensors)

    def _make(self, spec: ModelSpec, side: int) -> Make:
        from fairtune.models import clip

        check_limit(spec, self.text.max_position_embeddings)
        return lambda: clip.pair(self, spec, side)
