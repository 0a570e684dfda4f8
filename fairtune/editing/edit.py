"""The value of an edit: how it is applied, how large it is, what it is called."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fairtune.errors import ModelError

EIGHT_BIT = 255.0
"""Norms are told in units of 1/255, one level of an 8-bit image."""


def shown(value: Tensor, image_size: int) -> Tensor:
    """Return an edit at full size `(channels, image_size, image_size)`; differentiable.

    Every cell of the grid fills the pixels nearest to it, so that the values of pixels are those
    of cells and norms keep their meaning at every resolution of the grid.

    Args:
        value: `(channels, m, m)`.
        image_size: Side of the images in pixels, at least m.
    """
    if value.shape[-1] == image_size:
        return value
    side = (image_size, image_size)
    return functional.interpolate(value.unsqueeze(0), size=side, mode="nearest").squeeze(0)


def applied(image: Tensor, full: Tensor, clamp: bool) -> Tensor:
    """Return `image + full`, with `clamp` cut to [0, 1].

    Args:
        image: `(batch, channels, side, side)` in [0, 1].
        full: `(1 or channels, side, side)`.
        clamp: Whether the result stays an image.
    """
    edited = image + full
    return edited.clamp(0.0, 1.0) if clamp else edited


@dataclass(frozen=True, eq=False)
class Edit:
    """One universal edit: what is added to every image in [0, 1], before normalisation.

    Attributes:
        value: `(1 or c, m, m)` float32 on the CPU; one channel serves all of an image.
        image_size: Side in pixels of the images it was made for, at least m.
        clamp: Whether edited images are cut to [0, 1].
        about: What is to be known of it, as JSON: model, attribute, objective, mode, queries.
    """

    value: Tensor
    image_size: int
    clamp: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = tuple(self.value.shape)
        square = len(shape) == 3 and shape[1] == shape[2]
        if not square or not 1 <= shape[1] <= self.image_size:
            raise ModelError(
                "not the shape of an edit",
                found=shape,
                allowed=f"(channels, m, m) with m from 1 to {self.image_size}",
            )
        if not bool(torch.isfinite(self.value).all()):
            raise ModelError("an edit has values that are not finite")

    @property
    def full(self) -> Tensor:
        """The edit at full size, `(1 or c, image_size, image_size)`."""
        return shown(self.value, self.image_size)

    @property
    def sha(self) -> str:
        """SHA-256 of everything that acts on an image."""
        head = [list(self.value.shape), self.image_size, self.clamp]
        values = self.value.contiguous().numpy().tobytes()
        return hashlib.sha256(repr(head).encode() + values).hexdigest()

    def norms(self) -> dict[str, float]:
        """Return RMS and largest absolute value of a pixel in 1/255, and the L2 norm in [0, 1].

        The L2 norm is that of `full`, of one channel where there is one alone.
        """
        full = self.full.double()
        return {
            "rms": float(full.square().mean().sqrt()) * EIGHT_BIT,
            "linf": float(full.abs().max()) * EIGHT_BIT,
            "l2": float(full.norm()),
        }

    def on(self, device: torch.device | str) -> View:
        """Return what applies it to batches that lie on `device`."""
        return View(self.full.to(device), self.clamp)

    def check(self, image_size: int, channels: int) -> None:
        """Refuse images that it was not made for.

        Raises:
            ModelError: Another side, or another number of channels.
        """
        if image_size != self.image_size:
            raise ModelError(
                "the edit is of another image size",
                found=f"{self.image_size} px",
                allowed=f"{image_size} px",
                todo="learn one at this size, or give recipe.model.image_size that of the edit",
            )
        if self.value.shape[0] not in (1, channels):
            raise ModelError(
                "the edit has another number of channels than the images",
                found=int(self.value.shape[0]),
                allowed=sorted({1, channels}),
            )


@dataclass(frozen=True, eq=False)
class View:
    """An edit on a device, as a function of images in [0, 1]."""

    full: Tensor
    clamp: bool

    def __call__(self, image: Tensor) -> Tensor:
        """Return the edited images."""
        return applied(image, self.full.to(image.dtype), self.clamp)
