"""A tiny model of images and texts with random values: a ViT and a BERT in one joint space."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from fairtune.config import parse
from fairtune.config.yaml12 import dumps
from fairtune.models import ModelSpec, load

SIDE = 32
"""Of its images."""
TEXT_BLOCKS = 2
WORDS = """
a an the of no with without photo image x ray chest lung lungs heart fluid clear large small
normal abnormal patient finding findings disease healthy male female old young
"""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
IMAGE: dict[str, Any] = {
    "blocks": "blocks",
    "types": {
        "norm1": ["norm1"],
        "norm2": ["norm2"],
        "norm": ["norm1", "norm2"],
        "attn": ["attn"],
        "mlp": ["mlp"],
        "bias": ["bias"],
        "block": ["*"],
    },
    "singles": {
        "stem": ["patch_embed", "cls_token"],
        "pos": ["pos_embed"],
        "final_norm": ["norm"],
    },
}
TEXT: dict[str, Any] = {
    "blocks": "encoder.layer",
    "types": {
        "norm1": ["attention.output.LayerNorm"],
        "norm2": ["^output.LayerNorm"],
        "norm": ["LayerNorm"],
        "attn": ["attention.self", "attention.output.dense"],
        "mlp": ["intermediate", "^output.dense"],
        "bias": ["bias"],
        "block": ["*"],
    },
    "singles": {
        "stem": [
            "embeddings.word_embeddings",
            "embeddings.token_type_embeddings",
            "embeddings.LayerNorm",
        ],
        "pos": ["embeddings.position_embeddings"],
    },
}


def vocabulary() -> list[str]:
    """Return tokens of which every English text can be put together."""
    words = WORDS.split()
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    return [
        *SPECIAL,
        *words,
        *(c for c in letters if c not in words),
        *(f"##{c}" for c in letters),
    ]


def pair_fields(dim: int | None = 24, **text: Any) -> dict[str, Any]:
    """Return the model's YAML as values.

    Args:
        dim: Length of the joint space; None for towers of one length and no projections.
        text: Other sizes of the text tower.
    """
    sizes = {
        "vocab_size": len(vocabulary()),
        "hidden_size": 64 if dim is None else 32,
        "num_hidden_layers": TEXT_BLOCKS,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 48,
    }
    more = {} if dim is None else {"projection": ["projection"]}
    towers = {
        "image": IMAGE | {"singles": IMAGE["singles"] | more},
        "text": TEXT | {"singles": TEXT["singles"] | more},
    }
    return {
        "title": "A ViT and a BERT for tests",
        "licence": "none",
        "citation": "none",
        "loader": {
            "two_towers": {"image": "test_vit", "text": sizes | text}
            | ({} if dim is None else {"dim": dim})
        },
        "architecture": "test_vit+bert",
        "image_size": {"default": SIDE, "multiple_of": 16},
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "tokenizer": {"limit": 24, "kind": "wordpiece", "file": "vocab.txt"},
        "units": {"towers": towers, "singles": {"logit_scale": ["logit_scale"]}},
    }


def write_pair(folder: Path, dim: int | None = 24, **text: Any) -> Path:
    """Write the model's YAML and its vocabulary below `folder`; return the YAML's path.

    A recipe names it as `model: {name: PATH, image_size: 32, weights: none}`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")
    path = folder / "tiny_pair.yaml"
    path.write_text(dumps(pair_fields(dim, **text)))
    return path


def pair(folder: Path, dim: int | None = 24, **text: Any) -> ModelSpec:
    """Return the spec that `write_pair` writes."""
    return load(str(write_pair(folder, dim, **text)))


def network_spec(dim: int | None = 24, **text: Any) -> ModelSpec:
    """Return the same spec for its network alone: the file of its tokenizer is nowhere."""
    return parse(ModelSpec, {**pair_fields(dim, **text), "name": "tiny_pair"})
