"""An architecture of timm with pretrained weights from the spec's sources."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fairtune.config import Config
from fairtune.models.registries import LOADERS

if TYPE_CHECKING:
    from torch import nn

    from fairtune.models.spec import ModelSpec


@LOADERS.register("timm")
class TimmModel(Config):
    """A network that `timm.create_model` knows by name."""

    def outline(self, spec: ModelSpec, image_size: int) -> nn.Module:
        """See `network.outline`."""
        from fairtune.models import network

        return network.outline(spec, image_size)

    def seeded(self, spec: ModelSpec, image_size: int, seed: int) -> nn.Module:
        """See `network.seeded`."""
        from fairtune.models import network

        return network.seeded(spec, image_size, seed)

    def filled(self, spec: ModelSpec, image_size: int | None, file: Path) -> nn.Module:
        """See `network.filled`."""
        from fairtune.models import network

        return network.filled(spec, image_size, file)
