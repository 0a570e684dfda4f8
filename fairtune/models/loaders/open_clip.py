"""A model of open_clip by name: image and text in one joint space."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairtune.config import Config
from fairtune.models.registries import LOADERS
from fairtune.models.sizes import check_limit

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fairtune.models.made import Make
    from fairtune.models.spec import ModelSpec


@LOADERS.register("open_clip")
class OpenClip(Config):
    """Both towers of an architecture that open_clip knows by name, such as `ViT-B-32-quickgelu`.

    Its attention is torch's fused module, whose weights low-rank methods cannot reach: train it
    directly, or take `loader: clip`, whose attention is four layers. An image's embedding is the
    projected one, of the joint space.

    Attributes:
        config: The `model_cfg` of an `open_clip_config.json` (`embed_dim`, `vision_cfg`,
            `text_cfg`, ...), for a model that open_clip does not know by name.
    """

    config: dict[str, Any] | None = None

    def outline(self, spec: ModelSpec, image_size: int) -> nn.Module:
        """Return both towers without values, on the meta device."""
        from fairtune.models import made

        return made.outline(self._make(spec, image_size))

    def seeded(self, spec: ModelSpec, image_size: int, seed: int) -> nn.Module:
        """Return both towers with open_clip's random values."""
        from fairtune.models import made

        return made.seeded(self._make(spec, image_size), seed)

    def filled(self, spec: ModelSpec, image_size: int | None, file: Path) -> nn.Module:
        """Return both towers with the tensors of `file`, named as by open_clip or as here."""
        from fairtune.models import open_clip_net

        config = self._config(spec)
        return open_clip_net.filled(spec, config, spec.side(image_size), file)

    def renamed(self, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Return tensors of open_clip under the names that they have here."""
        from fairtune.models import open_clip_net

        return open_clip_net.renamed(tensors)

    def _make(self, spec: ModelSpec, side: int) -> Make:
        from fairtune.models import open_clip_net

        config = self._config(spec)
        return lambda: open_clip_net.towers(spec, config, side)

    def _config(self, spec: ModelSpec) -> dict[str, Any]:
        from fairtune.models import open_clip_net

        found = open_clip_net.config_of(spec, self.config)
        check_limit(spec, int(found["text_cfg"].get("context_length", 77)))
        return found
