"""Tiny BLIP and BLIP-2 models: specs of ours, and transformers' own with random values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from kit_language import vocabulary
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    BlipConfig,
    BlipForImageTextRetrieval,
)

from fairtune.config import shipped
from fairtune.config.yaml12 import dumps, loads
from fairtune.models import ModelSpec, load
from fairtune.models.loaders.blip import BlipModel
from fairtune.models.loaders.blip2 import Blip2Model
from fairtune.models.spec import ImageSize
from fairtune.models.tokenizer_rule import TokenizerRule

SIDE, DIM, QUERIES, WORDS = 32, 12, 3, len(vocabulary())
BOS = WORDS - 1
VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}
TEXT: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "layer_norm_eps": 1e-12,
}
QFORMER = TEXT | {"num_query_tokens": QUERIES, "bos_token_id": BOS}
LOADERS: dict[str, dict[str, Any]] = {
    "blip": {"image": VISION, "text": TEXT, "dim": DIM},
    "blip2": {"image": VISION, "qformer": QFORMER, "dim": DIM},
}
SHIPPED = {"blip": "blip_itm_base_coco", "blip2": "blip2_itm_vit_g"}


def blip(**fields: Any) -> ModelSpec:
    """Return the shipped spec of BLIP, made small; `fields` are of its loader."""
    return _small("blip", BlipModel.model_validate(LOADERS["blip"] | fields))


def blip2(**fields: Any) -> ModelSpec:
    """Return the shipped spec of BLIP-2, made small; `fields` are of its loader."""
    return _small("blip2", Blip2Model.model_validate(LOADERS["blip2"] | fields))


def their_blip() -> BlipForImageTextRetrieval:
    """Return transformers' own with random values."""
    vision = VISION | {"image_size": SIDE}
    text = TEXT | {"bos_token_id": None, "sep_token_id": None}
    config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=DIM)
    return _random(BlipForImageTextRetrieval(config))


def their_blip2() -> Blip2ForImageTextRetrieval:
    """Return transformers' own with random values."""
    former = TEXT | {"use_qformer_text_input": True}
    dropped = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = Blip2Config(
        vision_config=VISION | {"image_size": SIDE},
        qformer_config=former | dropped,
        num_query_tokens=QUERIES,
        image_text_hidden_size=DIM,
    )
    return _random(Blip2ForImageTextRetrieval(config))


def pairs(count: int, side: int = SIDE) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images, and texts of different lengths as token numbers, -1 behind their ends."""
    generator = torch.Generator().manual_seed(count)
    image = torch.randn(count, 3, side, side, generator=generator)
    tokens = torch.randint(1, WORDS - 1, (count, 7), generator=generator)
    for i in range(count):
        tokens[i, 3 + i % 5 :] = -1
    return image, tokens


def _random(model: Any) -> Any:
    # They start biases, queries and image towers at (nearly) zero, where a fault would not show.
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def _small(name: str, loader: Any) -> ModelSpec:
    changes = {
        "loader": loader,
        "architecture": f"tiny-{name}",
        "image_size": ImageSize(default=SIDE, multiple_of=16),
        "tokenizer": TokenizerRule(limit=16, kind="wordpiece", file=Path("vocab.txt")),
        "weights": (),
    }
    return load(SHIPPED[name]).model_copy(update=changes)


def write(name: str, folder: Path) -> Path:
    """Write the small model's YAML and its vocabulary below `folder`; return the YAML's path."""
    (folder / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")
    fields: dict[str, Any] = loads(shipped.find("models", SHIPPED[name]).read_text()).data
    fields |= {
        "loader": {name: LOADERS[name]},
        "architecture": f"tiny-{name}",
        "image_size": {"default": SIDE, "multiple_of": 16},
        "tokenizer": {"limit": 16, "kind": "wordpiece", "file": "vocab.txt"},
        "weights": [],
    }
    path = folder / f"{name}.yaml"
    path.write_text(dumps(fields))
    return path
