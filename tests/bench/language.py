"""What vision-language runs cost: `python tests/bench/language.py --data-root DIR --weights auto`.

Real parts on real pairs: DINOv2 ViT-S/14 and MiniLM-L6 (`dinov2s_minilm`) on the training and
validation rows of `covid_cxr` that have notes. Compared with the published programs' ways of doing
the same, written anew here from their description:

- zero-shot scoring with the prompts embedded once a pass, against embedding them for every image
  of a batch and taking the diagonal of a square of similarities (FairCLIP's evaluation);
- the linear readout solved to its optimum, against 1,000 epochs of LARS on a batch-normalised head
  (FairCLIP's linear probe), both on features that are computed already;
- texts of a frozen text tower embedded once, against embedding them in every epoch.

Every figure is the median of several rounds in turn, in one process on all cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import surroundings
from torch import Tensor, nn
from torch.nn import functional

from fairtune.config import settings
from fairtune.models.language import unit
from fairtune.training.ground import Ground
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.scored import score_once
from fairtune.training.session import Session
from fairtune.usage import readout
from fairtune.usage.nets.prompts import logits, means, scale_of

MODEL, DATA, TARGET, SIZE = "dinov2s_minilm", "covid_cxr", "covid", 70
BATCH = 32
EPOCHS, LARS_BATCH, RATE, WARMUP, TRUST = 1000, 512, 0.1, 10, 1e-3
"""Of the published linear probe: rate by 256 rows, warm-up in epochs."""


def recipe(
    usage: Any,
    dataset: str = DATA,
    model: str = MODEL,
    target: str = TARGET,
    size: int = SIZE,
    weights: str = "auto",
) -> Recipe:
    """Return a run without a mask."""
    return Recipe.model_validate(
        {
            "data": {"dataset": dataset, "target": target, "attributes": ["sex"]},
            "model": {"name": model, "image_size": size, "weights": weights},
            "usage": usage,
            "fit": {"precision": "fp32"},
        }
    )


def published_zero_shot(ground: Ground, asked: Recipe) -> Tensor:
    """Return the validation logits, the prompts embedded for every image of each batch."""
    question, backbone = ground.question(asked), ground.backbone
    assert question.prompts is not None
    assert question.owner is not None
    found = []
    loader = ground.loader(ground.val_rows(asked), BATCH, edit=None)
    with torch.inference_mode():
        for batch in loader.epoch(shuffle=False):
            image = unit(backbone.joint(batch.image))
            every = question.prompts.repeat(len(image), 1)
            words = unit(backbone.words(every)).reshape(
                len(image), *question.prompts.shape[:1], -1
            )
            classes = torch.stack([means(w, question.owner) for w in words])
            square = torch.einsum("id,jcd->ijc", image, classes)
            cosine = square[range(len(image)), range(len(image))]
            found.append(logits(cosine, scale_of(backbone), question.task))
    return torch.cat(found)


def published_probe(features: Tensor, label: Tensor, epochs: int, seed: int = 0) -> float:
    """Return the training loss after `epochs` of LARS on a batch-normalised linear head."""
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(features.shape[1], affine=False, eps=1e-6)
    head = nn.Linear(features.shape[1], 1)
    nn.init.trunc_normal_(head.weight, std=0.01)
    velocity = {name: torch.zeros_like(p) for name, p in head.named_parameters()}
    size = min(LARS_BATCH, len(features))
    top = RATE * LARS_BATCH / 256
    for epoch in range(epochs):
        order = torch.randperm(len(features))
        for start in range(0, len(features) - size + 1, size):
            at = epoch + start / len(features)
            share = (at - WARMUP) / max(epochs - WARMUP, 1)
            rate = top * (at / WARMUP if at < WARMUP else 0.5 * (1 + np.cos(np.pi * share)))
            rows = order[start : start + size]
            head.zero_grad()
            loss_of(head(norm(features[rows])), label[rows]).backward()
            with torch.no_grad():
                for name, p in head.named_parameters():
                    assert p.grad is not None
                    step = p.grad
                    if p.ndim > 1 and p.norm() > 0 and step.norm() > 0:
                        step = step * TRUST * p.norm() / step.norm()
                    velocity[name].mul_(0.9).add_(step)
                    p.sub_(rate * velocity[name])
    norm.eval()
    with torch.no_grad():
        return float(loss_of(head(norm(features)), label))


def loss_of(score: Tensor, label: Tensor) -> Tensor:
    """Return the mean binary cross-entropy."""
    return functional.binary_cross_entropy_with_logits(score[:, 0], label)


def measure(session: Session, rounds: int, epochs: int = EPOCHS, **of: Any) -> dict[str, Any]:
    """Return the figures, each with what it is compared with."""
    zero = session.resolve(recipe("zero_shot", **of))
    ground = session.ground(zero)
    read = session.resolve(recipe({"classify": {"features": "both"}}, **of))
    texts = session.ground(read)
    rows = texts.fit_rows(read)
    features, label = texts.seen(read, rows), texts.labels(rows)
    tensor, target = torch.from_numpy(features).float(), torch.from_numpy(label).float()
    ways: dict[str, Callable[[], Any]] = {
        "zero_shot": lambda: score_once(zero, Seeds(), ground),
        "zero_shot_published": lambda: published_zero_shot(ground, zero),
        "readout": lambda: readout.fit(features, label, "binary", 1, read.optim.l2),
        "readout_published": lambda: published_probe(tensor, target, epochs),
        "texts": lambda: embedded_anew(texts, read),
        "texts_kept": lambda: embedded_again(texts, read),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    said: dict[str, Any] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            said[name] = way()
            seconds[name].append(time.perf_counter() - began)
    ours = torch.from_numpy(said["zero_shot"][0].scores)
    return {
        "rows": {
            "scored": len(ours),
            "fitted": len(rows),
            "texts": sum(len(texts.pack.rows(part)) for part in ("train", "val")),
        },
        "prompts": len(ground.question(zero).prompts),  # type: ignore[arg-type]
        "features": features.shape[1],
        "epochs": epochs,
        "rounds": rounds,
        "largest_difference": float((ours - said["zero_shot_published"]).abs().max()),
        "loss": {"readout": said["readout"][2], "readout_published": said["readout_published"]},
        "seconds": {name: statistics.median(found) for name, found in seconds.items()},
        "each": seconds,
    }


def embedded_anew(ground: Ground, asked: Recipe) -> Tensor:
    """Embed the texts of all known rows, without looking into the cache."""
    held = replace(ground.texts, _known=None, _embedded={})
    held.ground = replace(ground, reuse=False)
    return held.embedded(asked, ground.fit_rows(asked))


def embedded_again(ground: Ground, asked: Recipe) -> Tensor:
    """Return the embedded texts as a later process finds them."""
    held = replace(ground.texts, _known=None, _embedded={})
    return held.embedded(asked, ground.fit_rows(asked))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Time vision-language runs.")
    parser.add_argument("--data-root", type=Path, action="append", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("language.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        own = settings()
        session = Session(
            replace(own, cache=own.cache if own.cache.exists() else Path(folder)),
            data_roots=options.data_root,
            held=2,
        )
        found = measure(session, options.rounds)
    options.out.write_text(json.dumps(surroundings("language.py") | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
