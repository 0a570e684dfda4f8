"""An endpoint in the place of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fairtune.errors import ModelError
from fairtune.models.answers import Answers
from fairtune.models.endpoint import Endpoint

_CLOSE = 2.0**-22
"""A pixel this near to a whole 255th is that: processors divide by 255 in different ways, and an
image must not be paid for again on another one."""


class RemoteNet(nn.Module):
    """Asks an endpoint for features, on whatever device the images lie; there is no gradient.

    Attributes:
        num_features: Length of an answer.
        identity: The 32 bytes that tell this endpoint from all others, where digests of tensors
            find them.

    Args:
        identity: SHA-256 (hex) of the endpoint.
        dim: Length of an answer.
        endpoint: What is asked; None for an outline.
        pixels: How a pixel is sent.
        unit: Whether images are in [0, 1].
    """

    differentiable = False
    identity: Tensor

    def __init__(
        self,
        identity: str,
        dim: int,
        endpoint: Endpoint | None = None,
        *,
        pixels: str = "float32",
        unit: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = dim
        self.register_buffer("identity", torch.tensor(list(bytes.fromhex(identity))).byte())
        self._endpoint, self._pixels, self._unit = endpoint, pixels, unit

    @property
    def answers(self) -> Answers | None:
        """What the endpoint has answered so far."""
        return None if self._endpoint is None else self._endpoint.answers

    def obeys(self, poll: Callable[[], str | None]) -> None:
        """Stop waiting for the endpoint when `poll` has a reason to."""
        if self._endpoint is not None:
            self._endpoint.poll = poll

    def forward_features(self, image: Tensor) -> Tensor:
        """Return `(batch, dim)` answers to `(batch, channels, height, width)` images, fp32.

        Raises:
            ModelError: A gradient is wanted, an image is not finite, or the endpoint's answers
                cannot be used.
            EndpointAway: It does not answer.
            Interrupted: There was a reason to leave.
            StorageError: Answers cannot be kept.
        """
        if self._endpoint is None:
            raise ModelError("the outline of an endpoint cannot be asked")
        if image.requires_grad and torch.is_grad_enabled():
            raise ModelError(
                "an endpoint gives no gradient",
                todo="use a black-box optimiser, or a model whose weights are here",
            )
        found = self._endpoint.embed(_sent(image, self._pixels, self._unit))
        return torch.from_numpy(found).to(image.device)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return `features`: an endpoint pools them itself."""
        return features


def _sent(image: Tensor, pixels: str, unit: bool) -> np.ndarray[Any, np.dtype[Any]]:
    """Return images as they are sent: on the CPU, in the order of their shape."""
    held = image.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(held).all()):
        raise ModelError("an image that is not finite is not sent to an endpoint")
    whole = (held * 255).round()
    if pixels == "uint8":
        return np.ascontiguousarray(whole.clamp(0, 255).to(torch.uint8).numpy())
    if unit:
        near = whole / 255
        held = torch.where((held - near).abs() < _CLOSE, near, held)
    return np.ascontiguousarray(held.numpy())
