"""Optimiser and learning-rate schedule of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch
from torch import nn

from fairtune.training.recipe import OptimPart


def build_optimizer(
    trained: dict[str, nn.Parameter], optim: OptimPart, exempt: Collection[str] = ()
) -> torch.optim.Optimizer:
    """Return the optimiser with one group per learning rate and decay.

    Args:
        trained: What trains, by name.
        optim: Learning rates and decay.
        exempt: Tensors that are never decayed, besides vectors.
    """

    def group(head: bool, decays: bool) -> dict[str, object]:
        return {
            "params": [
                p
                for name, p in trained.items()
                if name.startswith("head.") == head
                and (p.ndim > 1 and name not in exempt) == decays
            ],
            "lr": optim.head_lr if head else optim.lr,
            "weight_decay": optim.weight_decay if decays else 0.0,
        }

    groups = [
        g for g in (group(h, d) for h in (False, True) for d in (True, False)) if g["params"]
    ]
    if optim.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=optim.head_lr, momentum=0.9, fused=True)
    return torch.optim.AdamW(groups, lr=optim.head_lr, fused=True)


def lr_factor(optim: OptimPart, steps_per_epoch: int) -> Callable[[int], float]:
    """Return step -> factor in [0, 1]: linear warm-up, then cosine to zero or constant."""
    total = steps_per_epoch * optim.epochs
    warm = int(optim.warmup * total)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        if optim.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))

    return factor
