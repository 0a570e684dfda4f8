"""SigLIP of transformers: both towers in one joint space.

Zhai et al., "Sigmoid loss for language image pre-training", ICCV 2023: a pair's score is
`exp(logit_scale) * cosine + logit_bias`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from fairtune.errors import ModelError
from fairtune.models import made
from fairtune.models.clip import NO_TOKENS, Parts, TextTower, Tower, declared
from fairtune.models.towers import Towers, called

if TYPE_CHECKING:
    from fairtune.models.loaders.siglip import Siglip
    from fairtune.models.spec import ModelSpec


PARTS = Parts(
    prefix=0,
    enter=lambda model, image: model.embeddings(image),
    leave=lambda model, hidden: model.post_layernorm(hidden),
    pool=lambda model, features: model.head(features),
    tail=("post_layernorm", "head"),
    undecayed=("embeddings.position_embedding.weight", "head.probe"),
)


def pair(loader: Siglip, spec: ModelSpec, image_size: int) -> nn.Module:
    """Return both towers, in the current device and random state.

    Raises:
        ModelError: transformers is missing, the sizes do not fit together, or texts are not
            padded to the limit.
    """
    _check_padding(spec)

    def build(transformers: Any) -> nn.Module:
        sizes, dim = declared(loader.image.to_json()), loader.image.hidden_size
        image = transformers.SiglipVisionConfig(
            **sizes, image_size=image_size, num_channels=spec.channels
        )
        text = transformers.SiglipTextConfig(
            **declared(loader.text.to_json()), **NO_TOKENS, projection_size=dim
        )
        return Towers(
            Tower(transformers.SiglipVisionModel(image), dim, PARTS),
            TextTower(transformers.SiglipTextModel(text)),
            called,
            dim,
            loader.scale,
            bias=loader.bias,
        )

    return made.transformers_model(spec, build)


def _check_padding(spec: ModelSpec) -> None:
    # Its text is the last token, whatever that is: it was trained with padding to the limit.
    if spec.tokenizer is not None and spec.tokenizer.pad != "limit":
        raise ModelError(
            "SigLIP reads texts that are padded to the limit",
            where=f"model '{spec.name}' (tokenizer.pad)",
            found=spec.tokenizer.pad,
            allowed="limit",
        )
