"""CLIP of transformers: its image tower as a network like timm's, and its text tower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fairtune.models import made, split
from fairtune.models.language import attended
from fairtune.models.towers import Towers, called, project

if TYPE_CHECKING:
    from fairtune.models.loaders.clip import Clip
    from fairtune.models.spec import ModelSpec

# What the hub calls a tensor begins with; what it begins with here.
HUB = {
    "vision_model.": "image.vision_model.",
    "visual_projection.": "image.projection.",
    "text_model.": "text.text_model.",
    "text_projection.": "text.projection.",
}
# The network uses none of these numbers, which transformers compares with the vocabulary.
NO_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))


@dataclass(frozen=True)
class Parts:
    """What image towers of transformers do differently; each function gets the vision model.

    Attributes:
        prefix: Tokens before those of the image.
        enter: Makes of images the tokens before the first block.
        leave: Makes of what stands behind the last block the features.
        pool: Makes of features the `(batch, dim)`.
        tail: Modules of the vision model that act after the last block.
        undecayed: Tensors of it that are never decayed.
        given: What every block is called with besides the tokens.
    """

    prefix: int
    enter: Callable[[Any, Tensor], Tensor]
    leave: Callable[[Any, Tensor], Tensor]
    pool: Callable[[Any, Tensor], Tensor]
    tail: tuple[str, ...]
    undecayed: tuple[str, ...]
    given: Mapping[str, Any] = field(default_factory=lambda: {"attention_mask": None})


CLIP = Parts(
    prefix=1,
    enter=lambda model, image: model.pre_layrnorm(model.embeddings(image)),
    leave=lambda model, hidden: hidden,
    pool=lambda model, features: model.post_layernorm(features[:, 0]),
    tail=("post_layernorm",),
    undecayed=("embeddings.position_embedding.weight", "embeddings.class_embedding"),
)


class Tower(nn.Module):
    """A vision tower with the methods of a timm network; its tensors are called as on the hub.

    Attributes:
        vision_model: transformers' module.
        num_features: Length of an embedding.
        embed_dim: Length of a token, which is the same.
        num_prefix_tokens: Tokens before those of the image: the class token of CLIP's.
        patches: Tokens of the image.
        patch_size: Side of a patch in pixels.
    """

    blocks_path = "vision_model.encoder.layers"

    def __init__(self, vision_model: nn.Module, dim: int, parts: Parts = CLIP) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.num_features = self.embed_dim = dim
        self.num_prefix_tokens = parts.prefix
        self.tail = frozenset({"projection", *(f"vision_model.{name}" for name in parts.tail)})
        embeddings: Any = vision_model.embeddings
        self.patches, self.patch_size = int(embeddings.num_patches), int(embeddings.patch_size)
        self.given: Mapping[str, Any] = dict(parts.given)
        self._parts = parts

    @property
    def blocks(self) -> nn.ModuleList:
        """See `split.Cuttable`."""
        held: nn.ModuleList = self.get_submodule(self.blocks_path)  # type: ignore[assignment]
        return held

    def enter(self, image: Tensor) -> Tensor:
        """See `split.Cuttable`."""
        return self._parts.enter(self.vision_model, image)

    def leave(self, hidden: Tensor) -> Tensor:
        """See `split.Cuttable`."""
        return self._parts.leave(self.vision_model, hidden)

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the tokens `(batch, prefix + patches, dim)` of images."""
        return split.whole(self, image)

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the pooled `(batch, dim)`; there is no head."""
        return self._parts.pool(self.vision_model, features)

    def forward(self, image: Tensor) -> Tensor:
        """Return the embedding `(batch, dim)`."""
        return self.forward_head(self.forward_features(image))

    def no_weight_decay(self) -> set[str]:
        """Return the tensors that are never decayed: positions, and tokens of the tower's own."""
        return {f"vision_model.{name}" for name in self._parts.undecayed}


class TextTower(nn.Module):
    """A text tower; its tensors are called as on the hub.

    Attributes:
        text_model: transformers' module.
    """

    def __init__(self, text_model: nn.Module) -> None:
        super().__init__()
        self.text_model = text_model

    def forward(self, tokens: Tensor) -> Tensor:
        """Return transformers' `(texts, dim)` of token numbers `(texts, length)`.

        Nothing is masked: attention of CLIP's is causal, so that what stands behind the last
        token of a text does not reach it; SigLIP's was trained with padding attended to.
        """
        numbers, _ = attended(tokens, 0)
        pooled: Tensor = self.text_model(input_ids=numbers).pooler_output
        return pooled

    def no_weight_decay(self) -> set[str]:
        """Return the tensors that are never decayed: positions."""
        return {"text_model.embeddings.position_embedding.weight"}


def vision(sizes: Mapping[str, Any], spec: ModelSpec, image_size: int) -> nn.Module:
    """Return the vision tower, in the current device and random state.

    Raises:
        ModelError: transformers is missing, or the sizes do not fit together.
    """

    def build(transformers: Any) -> nn.Module:
        config = transformers.CLIPVisionConfig(
            **declared(sizes), image_size=image_size, num_channels=spec.channels
        )
        model = transformers.CLIPVisionModel(config)
        # Before version 5 the tower lies one module deeper.
        return Tower(getattr(model, "vision_model", model), int(sizes["hidden_size"]))

    return made.transformers_model(spec, build)


def pair(loader: Clip, spec: ModelSpec, image_size: int) -> nn.Module:
    """Return both towers with their projections, in the current device and random state.

    Raises:
        ModelError: transformers is missing, or the sizes do not fit together.
    """

    def build(transformers: Any) -> nn.Module:
        text = declared(loader.text.to_json()) | NO_TOKENS
        config = transformers.CLIPTextConfig(**text | {"eos_token_id": loader.eos_token_id})
        return TextTower(transformers.CLIPTextModel(config))

    image = vision(loader.image.to_json(), spec, image_size)
    text = made.transformers_model(spec, build)
    project(image, loader.image.hidden_size, loader.dim)
    project(text, loader.text.hidden_size, loader.dim)
    return Towers(image, text, called, loader.dim, loader.scale)


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of both towers under the names that they have here.

    The hub's names are put behind the tower's; old files hold numbers of positions besides,
    which are left out. Names that are here already stay.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        start = next((old for old in HUB if name.startswith(old)), None)
        new = name if start is None else HUB[start] + name.removeprefix(start)
        if not name.endswith("embeddings.position_ids"):
            out[new] = tensor.reshape(()) if name in ("logit_scale", "logit_bias") else tensor
    return out


def declared(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes that are not left to the family."""
    return {name: value for name, value in sizes.items() if value is not None}
