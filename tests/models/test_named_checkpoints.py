"""Named checkpoints of a model hub, where one answers: the numbers of their own packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from fairtune.config import settings
from fairtune.models import load, tokenizer
from fairtune.models.backbone import build
from fairtune.models.language import similarity
from fairtune.models.weights import resolve

TEXTS = ["a chest X-ray with pneumonia", "a normal chest X-ray", "a photo of a cat"]


def of_transformers(name: str, repository: str, image: Tensor) -> Tensor:
    from transformers import AutoModel, AutoTokenizer

    words = AutoTokenizer.from_pretrained(repository)
    padding = {"padding": "max_length"} if name.startswith("siglip") else {"padding": True}
    model: Any = AutoModel.from_pretrained(repository).eval()
    found = model(pixel_values=image, **words(TEXTS, return_tensors="pt", **padding))
    logits: Tensor = found.logits_per_image
    return logits


def of_open_clip(name: str, repository: str, image: Tensor) -> Tensor:
    model, words = open_clip.create_model(repository), open_clip.get_tokenizer(repository)
    logits: Tensor = model.eval().get_logits(image, words(TEXTS))[0]
    return logits


# Slow: every one of them is a download of 600 MB to 1.7 GB.
@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "theirs", "repository"),
    [
        ("clip_vit_b32", of_transformers, "openai/clip-vit-base-patch32"),
        ("clip_vit_b16", of_transformers, "openai/clip-vit-base-patch16"),
        ("clip_vit_l14", of_transformers, "openai/clip-vit-large-patch14"),
        ("pubmedclip", of_transformers, "flaviagiammarino/pubmed-clip-vit-base-patch32"),
        ("siglip_base_patch16_224", of_transformers, "google/siglip-base-patch16-224"),
        (
            "openclip_vit_b32_laion2b",
            of_open_clip,
            "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        ),
        (
            "biomedclip",
            of_open_clip,
            "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        ),
    ],
)
def test_a_named_checkpoint_gives_its_own_scores(
    name: str, theirs: Any, repository: str, tmp_path: Path
) -> None:
    here = settings({"FAIRTUNE_CACHE": str(tmp_path), "FAIRTUNE_OFFLINE": "0"})
    spec = load(name)
    backbone = build(spec, None, resolve(spec, "auto", here))
    net, ids = backbone.language, torch.from_numpy(tokenizer.load(spec, here)(TEXTS))
    image = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        cosine = similarity(backbone.joint(image), backbone.words(ids))
        logits = cosine * net.logit_scale.exp() + getattr(net, "logit_bias", 0)
        expected = theirs(name, repository, image)
    assert torch.allclose(logits, expected, atol=1e-3, rtol=1e-4)
