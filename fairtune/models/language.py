"""Networks with a text tower beside the image's: what they have more than a network of images."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

PADDED = -1
"""Stands where a text of a batch has no token."""


class LanguageNet(Protocol):
    """A network of images and texts, with the methods of a timm network and these.

    Its tensors are called by the tower that they are of: `image.`, `text.`, `qformer.`; the
    temperature is `logit_scale`, the bias of SigLIP `logit_bias`.

    Attributes:
        image: The image tower.
        text: The text tower.
        joint_dim: Length of what images and texts are compared in.
        logit_scale: Logarithm of the factor of cosines.
    """

    image: nn.Module
    text: nn.Module
    joint_dim: int
    logit_scale: nn.Parameter

    def joint(self, features: Tensor) -> Tensor:
        """Return `(batch, joint_dim)` or `(batch, queries, joint_dim)` of `forward_features`."""
        ...

    def words(self, tokens: Tensor) -> Tensor:
        """Return `(texts, joint_dim)` of token numbers `(texts, length)`, padded by `PADDED`."""
        ...


def is_language(net: Any) -> TypeGuard[LanguageNet]:
    """Tell whether a network reads texts too.

    By its methods: whether it has the modules an `isinstance` would not see in Python 3.12.
    """
    return all(callable(getattr(net, name, None)) for name in ("joint", "words"))


def sides(net: LanguageNet, name: str) -> frozenset[str]:
    """Return on which sides of a comparison a tensor stands: `image`, `text`, both or neither.

    The network says so itself by a method `sides`; else a tensor is of the tower it is called by.
    """
    own = getattr(net, "sides", None)
    if own is not None:
        found: frozenset[str] = own(name)
        return found
    if name in ("logit_scale", "logit_bias"):
        return frozenset()
    return frozenset({"text" if name.startswith("text.") else "image"})


def unit(x: Tensor) -> Tensor:
    """Return vectors of length 1 along the last axis, fp32, or fp64 of fp64."""
    return functional.normalize(x if x.dtype == torch.float64 else x.float(), dim=-1)


def exact(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which products on the device of `x` are of the numbers they are given.

    Rounded to bf16, cosines of many images would be equal: ranks, and AUCs, would be of ties.
    """
    return torch.autocast(x.device.type, enabled=False)


def similarity(image: Tensor, text: Tensor) -> Tensor:
    """Return the cosine of every image with every text, of several queries the largest.

    Args:
        image: `(batch, dim)` or `(batch, queries, dim)`; any length.
        text: `(texts, dim)`.

    Returns:
        `(batch, texts)`, fp32, or fp64 of fp64; see `exact`.
    """
    with exact(image):
        cosine = unit(image) @ unit(text).T
    return cosine if image.ndim == 2 else cosine.amax(dim=1)


def own_similarity(image: Tensor, text: Tensor) -> Tensor:
    """Return the `(batch,)` cosine of every image with its own text, see `similarity`."""
    if image.ndim == 2:
        return (unit(image) * unit(text)).sum(dim=-1)
    return (unit(image) * unit(text)[:, None]).sum(dim=-1).amax(dim=1)


def attended(tokens: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """Return token numbers with `padding` where none is, and 0/1 for where one is."""
    mask = tokens != PADDED
    return tokens.masked_fill(~mask, padding), mask.long()
