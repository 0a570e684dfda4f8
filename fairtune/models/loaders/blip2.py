"""BLIP-2's image tower and Q-Former, with weights of transformers' class for retrieval."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from fairtune.config import Config
from fairtune.models.blip_sizes import QFormerSizes, VisionSizes
from fairtune.models.registries import LOADERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from fairtune.models.spec import ModelSpec


@LOADERS.register("blip2")
class Blip2Model(Config):
    """transformers' `Blip2ForImageTextRetrieval`; the spec's `architecture` is its title.

    The sizes stand here, as in the model's `config.json`, so that units can be listed without a
    model hub.

    Attributes:
        vision: The image tower.
        qformer: The Q-Former, which reads texts too.
        dim: Length of the joint space.
        embedding: What a head reads of an image: the `first` query, the `mean` or `max` over the
            queries, or all of them one behind the other (`flatten`).
        scale: Factor of cosines, 1 / temperature, which weights of that class do not hold.
    """

    vision: VisionSizes
    qformer: QFormerSizes
    dim: Annotated[int, Field(ge=1)] = 256
    embedding: Literal["first", "mean", "max", "flatten"] = "first"
    scale: Annotated[float, Field(gt=0)] = 1 / 0.07

    @property
    def identity(self) -> str | None:
        """No endpoint."""
        return None

    @property
    def checkpoint(self) -> Path | None:
        """No file of the user's own."""
        return None

    def beside(self, folder: Path) -> Blip2Model:
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
        from fairtune.models import blip2, ready_made

        make = self._maker(spec, spec.side(image_size))
        return ready_made.filled(make, blip2.layout(self.qformer, self.scale), spec, file)

    def _maker(self, spec: ModelSpec, side: int) -> Callable[[], nn.Module]:
        from fairtune.models import blip2, ready_made

        ready_made.check(spec, self.qformer.max_position_embeddings, "blip2")
        return partial(
            blip2.network,
            self.vision,
            self.qformer,
            side,
            self.dim,
            self.scale,
            self.embedding,
        )
