"""An image tower and a text tower in one joint space."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Read = Callable[[nn.Module, Tensor], Tensor]
"""Makes `(texts, dim)`, to be projected, with a text tower of token numbers `(texts, length)`."""


class Towers(nn.Module):
    """Two towers whose embeddings are compared, with the methods of a timm network.

    What a tower gives is projected where it has a module `projection`. An image's embedding is
    that of the joint space.

    Args:
        image: A network as timm's, with `num_features`.
        text: The text tower.
        read: What it makes of texts; see `LanguageNet.words` for their token numbers.
        joint_dim: Length of what is compared.
        scale: Factor of cosines before training.
        bias: Added to scaled cosines before training (SigLIP); None for no such tensor.
    """

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        read: Read,
        joint_dim: int,
        scale: float,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))
        if bias is not None:
            self.logit_bias = nn.Parameter(torch.tensor(bias))
        self.joint_dim = self.num_features = joint_dim
        self._read = read

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
        return _projected(self.text, self._read(self.text, tokens))

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


def called(text: nn.Module, tokens: Tensor) -> Tensor:
    """Read texts by calling the tower, whatever is hooked on to it."""
    found: Tensor = text(tokens)
    return found


def project(tower: nn.Module, found: int, wanted: int, through: int | None = None) -> None:
    """Give `tower` a `projection` from `found` values to `wanted`, without bias.

    It is linear, or two layers with a GELU between them and `through` values there.
    """
    if through is None:
        tower.projection = nn.Linear(found, wanted, bias=False)
        return
    first, second = nn.Linear(found, through, bias=False), nn.Linear(through, wanted, bias=False)
    tower.projection = nn.Sequential(first, nn.GELU(), second)


def _projected(tower: nn.Module, pooled: Tensor) -> Tensor:
    projection = getattr(tower, "projection", None)
    return pooled if projection is None else projection(pooled)
