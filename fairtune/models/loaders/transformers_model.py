"""The vision tower of a CLIP model of transformers, with weights from the spec's sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from fairtune.models.registries import LOADERS
from fairtune.models.sizes import ImageSizes

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.models.made import Make
    from fairtune.models.spec import ModelSpec


@LOADERS.register("transformers")
class TransformersModel(ImageSizes):
    """A network of transformers' class `CLIPVisionModel`; the spec's `architecture` is its title.

    The sizes stand here, as in the model's `config.json`, so that units can be listed without a
    model hub.

    Attributes:
        hidden_size: Length of a token.
        intermediate_size: Width of the MLPs.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads of a block.
        patch_size: Side of a patch in pixels.
        hidden_act: Activation of the MLPs.
        layer_norm_eps: Added to the variance.
    """

    positions: ClassVar[Mapping[str, int]] = {
        "vision_model.embeddings.position_embedding.weight": 1
    }

    hidden_act: str = "quick_gelu"
    layer_norm_eps: Annotated[float, Field(gt=0)] = 1e-5

    def renamed(self, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Return the tensors: they are called as on the hub."""
        return dict(tensors)

    def make(self, spec: ModelSpec, side: int) -> Make:
        """Return what makes the network, see `Maker.make`."""
        from fairtune.models import clip

        return lambda: clip.vision(self.to_json(), spec, side)
