"""BLIP with both towers, with weights of transformers' class for retrieval."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fairtune.config import Config
from fairtune.models.blip_sizes import TextSizes, VisionSizes
from fairtune.models.registries import LOADERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from fairtune.models.spec import ModelSpec


@LOADERS.register("blip")
class BlipModel(Config):
    """transformers' `BlipForImageTextRetrieval`; the spec's `architecture` is its title.

    The sizes stand here, as in the model's `config.json`, so that units can be listed without a
    model hub.

    Attributes:
        vision: The image tower.
        text: The text tower.
        dim: Length of the joint space.
        scale: Factor of cosines, 1 / temperature, which weights of that class do not hold.
    """

    vision: VisionSizes
    text: TextSizes
    dim: Annotated[int, Field(ge=1)] = 256
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
        """Return the network without values, on the meta device.

        Raises:
            ModelError: transformers is missing, or the spec asks for what it cannot be built for.
        """
        from fairtune.models import ready_made

        return ready_made.outlined(self._maker(spec, image_size))

    def seeded(self, spec: ModelSpec, image_size: int, seed: int) -> nn.Module:
        """Return the network with random values; the caller's RNG is not touched.

        Raises:
            ModelError: As of `outline`.
        """
        from fairtune.models import ready_made

        return ready_made.seeded(self._maker(spec, image_size), seed)

    def filled(self, spec: ModelSpec, image_size: int | None, file: Path) -> nn.Module:
        """Return the network with the tensors of `file`, positions resampled (bicubic).

        Raises:
            ModelError: As of `outline`, or the file does not fit.
        """
        from fairtune.models import blip, ready_made

        make = self._maker(spec, spec.side(image_size))
        return ready_made.filled(make, blip.layout(self.scale), spec, file)

    def _maker(self, spec: ModelSpec, side: int) -> Callable[[], nn.Module]:
        from fairtune.models import blip, ready_made

        ready_made.check(spec, self.text.max_position_embeddings, "blip")
        return partial(blip.network, self.vision, self.text, side, self.dim, self.scale)
