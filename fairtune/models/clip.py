"""The one place that calls transformers: CLIP's vision tower as a network like timm's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtune.errors import ModelError

if TYPE_CHECKING:
    from fairtune.models.spec import ModelSpec

POSITION = "vision_model.embeddings.position_embedding.weight"


class Tower(nn.Module):
    """A vision tower with the methods of a timm network; its tensors are called as on the hub.

    Attributes:
        vision_model: transformers' module.
        num_features: Length of an embedding.
        embed_dim: Length of a token, which is the same.
        num_prefix_tokens: Tokens before those of the image: the class token.
    """

    num_prefix_tokens = 1

    def __init__(self, vision_model: nn.Module, dim: int) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.num_features = self.embed_dim = dim

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the tokens `(batch, 1 + patches, dim)` of images `(batch, channels, h, w)`."""
        model: Any = self.vision_model
        tokens = model.pre_layrnorm(model.embeddings(image))
        encoded: Tensor = model.encoder(inputs_embeds=tokens).last_hidden_state
        return encoded

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the class token `(batch, dim)` after the last norm; there is no head."""
        model: Any = self.vision_model
        pooled: Tensor = model.post_layernorm(features[:, 0])
        return pooled

    def forward(self, image: Tensor) -> Tensor:
        """Return the embedding `(batch, dim)`."""
        return self.forward_head(self.forward_features(image))

    def no_weight_decay(self) -> set[str]:
        """Return the tensors that are never decayed: positions and the class token."""
        return {POSITION, "vision_model.embeddings.class_embedding"}


def outline(sizes: Mapping[str, Any], spec: ModelSpec, image_size: int) -> nn.Module:
    """Return the tower without values, on the meta device.

    Raises:
        ModelError: transformers is missing, or the sizes do not fit together.
    """
    with torch.device("meta"):
        return _tower(sizes, spec, image_size)


def seeded(sizes: Mapping[str, Any], spec: ModelSpec, image_size: int, seed: int) -> nn.Module:
    """Return the tower with transformers' random values; the caller's RNG is not touched.

    Raises:
        ModelError: transformers is missing, or the sizes do not fit together.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _tower(sizes, spec, image_size)


def filled(
    sizes: Mapping[str, Any], spec: ModelSpec, image_size: int | None, file: Path
) -> nn.Module:
    """Return the tower with the tensors of `file`, position embedding resampled (bicubic).

    Raises:
        ModelError: transformers is missing, or the file does not fit.
    """
    from fairtune.models import tensors

    net = seeded(sizes, spec, spec.side(image_size), 0)
    state = tensors.read(file)
    wanted = net.state_dict()[POSITION].shape[0]
    if POSITION in state:
        state[POSITION] = resampled(state[POSITION], wanted)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"the weights do not fit the architecture '{spec.architecture}'",
            where=file.name,
            found=str(error).splitlines()[-1].strip(),
        ) from None
    return net


def resampled(positions: Tensor, wanted: int) -> Tensor:
    """Return positions `(wanted, dim)` of a class token, which is kept, and a square of tokens."""
    if len(positions) == wanted:
        return positions
    old, new = (round((count - 1) ** 0.5) for count in (len(positions), wanted))
    grid = positions[1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(
        grid, size=(new, new), mode="bicubic", antialias=True, align_corners=False
    )
    image = grid.permute(0, 2, 3, 1).flatten(0, 2).to(positions.dtype)
    return torch.cat([positions[:1], image])


def _tower(sizes: Mapping[str, Any], spec: ModelSpec, image_size: int) -> nn.Module:
    try:
        from transformers import CLIPVisionConfig, CLIPVisionModel
    except ImportError:
        raise ModelError(
            f"model '{spec.name}' needs the package transformers",
            where="loader: transformers",
            todo="pip install 'fairtune[clip]'",
        ) from None
    try:
        config = CLIPVisionConfig(**sizes, image_size=image_size, num_channels=spec.channels)
        model = CLIPVisionModel(config)
    except (ValueError, KeyError) as error:
        raise ModelError(
            "transformers refuses the sizes of the model",
            where=f"model '{spec.name}' (loader)",
            found=str(error).splitlines()[0],
        ) from None
    # Before version 5 the tower lies one module deeper.
    return Tower(getattr(model, "vision_model", model), int(sizes["hidden_size"]))
