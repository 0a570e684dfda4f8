"""An image tower and a text tower, each of its own training, in one joint space."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fairtune.models.language import attended

Pool = Callable[[Any, Tensor], Tensor]
"""Makes `(texts, dim)`, to be projected, of a text tower's output and the 0/1 of its tokens."""


class Towers(nn.Module):
    """Two towers whose embeddings are compared, with the methods of a timm network.

    What a tower gives is projected where it has a module `projection`. An image's embedding is
    that of the joint space.

    Args:
        image: A network as timm's, with `num_features`.
        text: A module of transformers that takes `input_ids` and `attention_mask`.
        pool: What of its output is the text's.
        joint_dim: Length of what is compared.
        scale: Factor of cosines before training.
        padding: Token number that stands where a text has none.
        bias: Added to scaled cosines before training (SigLIP); None for no such tensor.
    """

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        pool: Pool,
        joint_dim: int,
        scale: float,
        padding: int = 0,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))
        if bias is not None:
            self.logit_bias = nn.Parameter(torch.tensor(bias))
        self.joint_dim = self.num_features = joint_dim
        self._pool, self._padding = pool, padding

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the image tower's tokens."""
        features: Tensor = self.image.forward_features(image)  # type: ignore[operator]
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the image's `(batch, joint_dim)`; there is no head."""
        return self.joint(features)

    def joint(self, features: Tensor) -> Tensor:
        """See `LanguageNet.joint`."""
        pooled: Tensor = self.image.forward_head(features, pre_logits=True)  # type: ignore[operator]
        return _projected(self.image, pooled)

    def words(self, tokens: Tensor) -> Tensor:
        """See `LanguageNet.words`."""
        numbers, mask = attended(tokens, self._padding)
        found = self.text(input_ids=numbers, attention_mask=mask)
        return _projected(self.text, self._pool(found, mask))

    def forward(self, image: Tensor) -> Tensor:
        """Return the image's embedding."""
        return self.joint(self.forward_features(image))

    def no_weight_decay(self) -> set[str]:
        """Return the tensors that are never decayed: those of the towers, scale and bias."""
        found = {"logit_scale", "logit_bias"} & set(self._parameters)
        for path, tower in (("image", self.image), ("text", self.text)):
            named = getattr(tower, "no_weight_decay", None)
            found |= {f"{path}.{name}" for name in (named() if callable(named) else ())}
        return found


def project(tower: nn.Module, found: int, wanted: int) -> None:
    """Give `tower` a linear `projection` from `found` values to `wanted`, without bias."""
    tower.projection = nn.Linear(found, wanted, bias=False)


def _projected(tower: nn.Module, pooled: Tensor) -> Tensor:
    projection = getattr(tower, "projection", None)
    return pooled if projection is None else projection(pooled)
