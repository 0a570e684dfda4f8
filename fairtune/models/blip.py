"""BLIP for retrieval: a ViT and a BERT in one joint space, and a head that tells which match."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fairtune.models.language import attended
from fairtune.models.ready_made import Layout, places, unplaced

if TYPE_CHECKING:
    from fairtune.models.blip_sizes import TextSizes, VisionSizes

_PADDING = 0
POSITION = "image.embeddings.position_embedding"
CLASS = "image.embeddings.class_embedding"
# transformers starts image towers at 1e-10, from which a network that nothing fills cannot learn.
_STD = 0.02


class Blip(nn.Module):
    """BLIP's towers and heads (Li et al., BLIP, ICML 2022), with the methods of a timm network.

    Computes what transformers' `BlipForImageTextRetrieval` does, which has no factor of cosines:
    checkpoints of that class leave out BLIP's `temp`. `logit_scale` starts at 1 / 0.07, where
    BLIP's training started it.

    Args:
        image: transformers' `BlipVisionModel`.
        text: transformers' `BlipTextModel` without a pooler.
        sizes: Lengths of their tokens.
        joint_dim: Length of what is compared.
        scale: Factor of cosines before training.
    """

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        sizes: tuple[int, int],
        joint_dim: int,
        scale: float,
    ) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.image.projection = nn.Linear(sizes[0], joint_dim)
        self.text.projection = nn.Linear(sizes[1], joint_dim)
        self.itm_head = nn.Linear(sizes[1], 2)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.joint_dim, self.num_features = joint_dim, sizes[0]

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the image's tokens `(batch, 1 + patches, dim)`."""
        found: Tensor = self.image(pixel_values=image).last_hidden_state
        return found

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

    def no_weight_decay(self) -> set[str]:
        """Return the tensors that are never decayed."""
        return {"logit_scale", POSITION, CLASS}

    def _read(self, tokens: Tensor, **image: Tensor) -> Tensor:
        numbers, mask = attended(tokens, _PADDING)
        found: Tensor = self.text(
            input_ids=numbers, attention_mask=mask, position_ids=places(numbers), **image
        ).last_hidden_state
        return found


def network(
    vision: VisionSizes, text: TextSizes, image_size: int, joint_dim: int, scale: float
) -> Blip:
    """Return the network with transformers' random values, or none on the meta device."""
    from transformers import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    fields = vision.to_json() | {"image_size": image_size, "initializer_range": _STD}
    # No tokens of its own: transformers says of any vocabulary but BLIP's that it lacks them.
    without: dict[str, Any] = dict.fromkeys(("bos_token_id", "eos_token_id", "sep_token_id"))
    reader = BlipTextModel(
        BlipTextConfig(**read_by(text), **without, encoder_hidden_size=vision.hidden_size),
        add_pooling_layer=False,
    )
    sizes = vision.hidden_size, text.hidden_size
    return Blip(
        BlipVisionModel(BlipVisionConfig(**fields)), unplaced(reader), sizes, joint_dim, scale
    )


def layout(scale: float) -> Layout:
    """Return the layout of `BlipForImageTextRetrieval`.

    Args:
        scale: Factor of cosines, which its files lack.
    """
    names = {
        "vision_model.": "image.",
        "vision_proj.": "image.projection.",
        "text_encoder.": "text.",
        "text_proj.": "text.projection.",
    }
    begun = {"logit_scale": torch.tensor(math.log(scale))}
    return Layout("BlipForImageTextRetrieval", names, POSITION, begun)


def read_by(text: TextSizes) -> dict[str, Any]:
    """Return the sizes of a BERT as transformers' configurations take them."""
    dropped = {"hidden_dropout_prob": text.dropout, "attention_probs_dropout_prob": text.dropout}
    return {n: v for n, v in text.to_json().items() if n != "dropout"} | dropped


def _projected(tower: Any, token: Tensor) -> Tensor:
    found: Tensor = tower.projection(token)
    return found
