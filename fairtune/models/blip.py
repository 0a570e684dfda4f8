"""BLIP for retrieval: a ViT and a BERT in one joint space, and a head that tells which match."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fairtune.models import made
from fairtune.models.clip import Parts, Tower, declared
from fairtune.models.language import attended

if TYPE_CHECKING:
    from fairtune.models.blip_sizes import ReaderSizes
    from fairtune.models.loaders.blip import BlipModel
    from fairtune.models.sizes import ImageSizes
    from fairtune.models.spec import ModelSpec

PADDING = 0
STD = 0.02
"""Of random values. transformers starts image towers at 1e-10, from which nothing is learned."""
PARTS = Parts(
    prefix=1,
    enter=lambda model, image: model.embeddings(image),
    leave=lambda model, hidden: model.post_layernorm(hidden),
    pool=lambda model, features: features[:, 0],
    tail=("post_layernorm",),
    undecayed=("embeddings.position_embedding", "embeddings.class_embedding"),
    given={},
)
HUB = {
    "vision_model.": "image.vision_model.",
    "vision_proj.": "image.projection.",
    "text_encoder.": "text.",
    "text_proj.": "text.projection.",
}
"""What the hub calls a tensor begins with; what it begins with here."""


class Blip(nn.Module):
    """BLIP's towers and heads (Li et al., BLIP, ICML 2022), with the methods of a timm network.

    Computes what transformers' `BlipForImageTextRetrieval` does, which has no factor of cosines:
    checkpoints of that class leave out BLIP's `temp`. `logit_scale` starts at 1 / 0.07, where
    BLIP's training started it.

    Args:
        image: The image tower.
        text: transformers' `BlipTextModel` without a pooler.
        dims: Lengths of their tokens.
        joint_dim: Length of what is compared.
        scale: Factor of cosines before training.
    """

    def __init__(
        self, image: Tower, text: nn.Module, dims: tuple[int, int], joint_dim: int, scale: float
    ) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.image.projection = nn.Linear(dims[0], joint_dim)
        self.text.projection = nn.Linear(dims[1], joint_dim)
        self.itm_head = nn.Linear(dims[1], 2)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.joint_dim, self.num_features = joint_dim, dims[0]

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the image's tokens `(batch, 1 + patches, dim)`."""
        return self.image.forward_features(image)

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the class token `(batch, dim)`, not projected; there is no head."""
        return features[:, 0]

    def joint(self, features: Tensor) -> Tensor:
        """See `LanguageNet.joint`."""
        return _projected(self.image, features[:, 0])

    def words(self, tokens: Tensor) -> Tensor:
        """See `LanguageNet.words`: the first token, without a look at any image."""
        return _projected(self.text, self._read(tokens)[:, 0])

    def match(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Return `(pairs, 2)` logits of not matching and of matching.

        Args:
            features: `(pairs, 1 + patches, dim)` of `forward_features`.
            tokens: `(pairs, length)` numbers of the tokens of as many texts.
        """
        read = self._read(tokens, encoder_hidden_states=features)
        logits: Tensor = self.itm_head(read[:, 0])
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """Return the image's embedding."""
        return self.forward_head(self.forward_features(image))

    def sides(self, name: str) -> frozenset[str]:
        """See `language.sides`: what matches pairs is on neither side of a comparison."""
        if ".crossattention." in name or name.startswith(("itm_head.", "logit_scale")):
            return frozenset()
        return frozenset({"text" if name.startswith("text.") else "image"})

    def no_weight_decay(self) -> set[str]:
        """Return the tensors that are never decayed."""
        return undecayed(self.image)

    def _read(self, tokens: Tensor, **image: Tensor) -> Tensor:
        numbers, mask = attended(tokens, PADDING)
        found: Tensor = self.text(
            input_ids=numbers, attention_mask=mask, position_ids=places(numbers), **image
        ).last_hidden_state
        return found


def network(loader: BlipModel, spec: ModelSpec, image_size: int) -> nn.Module:
    """Return the network, in the current device and random state.

    Raises:
        ModelError: transformers is missing, or the sizes do not fit together.
    """

    def build(transformers: Any) -> nn.Module:
        fields = seen_by(loader.image, image_size)
        image = transformers.BlipVisionModel(transformers.BlipVisionConfig(**fields))
        # No tokens of its own: transformers says of any vocabulary but BLIP's that it lacks them.
        without = dict.fromkeys(("bos_token_id", "eos_token_id", "sep_token_id"))
        config = transformers.BlipTextConfig(
            **read_by(loader.text), **without, encoder_hidden_size=loader.image.hidden_size
        )
        text = transformers.BlipTextModel(config, add_pooling_layer=False)
        dims = loader.image.hidden_size, loader.text.hidden_size
        tower = Tower(image, dims[0], PARTS)
        return Blip(tower, unplaced(text), dims, loader.dim, loader.scale)

    return made.transformers_model(spec, build)


def renamed(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Return the tensors of `BlipForImageTextRetrieval` under the names that they have here.

    Names that are here already stay.

    Args:
        tensors: They.
        scale: Factor of cosines, where there is none.
    """
    return {"logit_scale": torch.tensor(math.log(scale)), **ours(tensors, HUB)}


def ours(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return tensors with other beginnings of their names, without numbers of places."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        start = next((old for old in names if name.startswith(old)), None)
        if not name.endswith("position_ids"):
            out[name if start is None else names[start] + name.removeprefix(start)] = tensor
    return out


def seen_by(image: ImageSizes, image_size: int) -> dict[str, Any]:
    """Return the sizes of an image tower as transformers' configurations take them."""
    return declared(image.to_json()) | {"image_size": image_size, "initializer_range": STD}


def read_by(text: ReaderSizes) -> dict[str, Any]:
    """Return the sizes of a BERT as transformers' configurations take them."""
    dropped = {"hidden_dropout_prob": text.dropout, "attention_probs_dropout_prob": text.dropout}
    return {n: v for n, v in declared(text.to_json()).items() if n != "dropout"} | dropped


def unplaced(net: nn.Module) -> nn.Module:
    """Return `net` without the numbers of places that transformers keeps as buffers.

    No file holds them, so that a network on the meta device could not have them; `places` are
    given in their stead.
    """
    for module in net.modules():
        module._buffers.pop("position_ids", None)
    return net


def places(tokens: Tensor) -> Tensor:
    """Return the `(1, length)` numbers of places of tokens `(texts, length)`."""
    return torch.arange(tokens.shape[1], device=tokens.device)[None]


def undecayed(image: Tower) -> set[str]:
    """Return the names of the tensors that are never decayed, with an image tower's."""
    return {"logit_scale", *(f"image.{name}" for name in image.no_weight_decay())}


def _projected(tower: Any, token: Tensor) -> Tensor:
    found: Tensor = tower.projection(token)
    return found
