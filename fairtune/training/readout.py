"""The linear readout: the head alone, solved to the optimum instead of trained.

For an empty mask the features never change, so they are computed once and the head is a convex
problem: mean loss + l2/2 |W|^2 over standardised features, by L-BFGS in float64.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from fairtune.training.observer import Epoch
from fairtune.training.recipe import Recipe, Seeds
from fairtune.usage.readout import fit, mean_loss, targets

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.training.ground import Ground


def solve(recipe: Recipe, seeds: Seeds, ground: Ground) -> tuple[Epoch, dict[str, Tensor]]:
    """Fit the head on frozen features; return its one epoch and the head's tensors.

    The seeds do not matter: the problem has one solution.
    """
    began = time.perf_counter()
    rows, val_rows = ground.fit_rows(recipe), ground.val_rows(recipe)
    weight, bias, train_loss = fit(
        ground.seen(recipe, rows),
        ground.labels(rows),
        ground.task,
        ground.outputs,
        recipe.optim.l2,
        balance=recipe.optim.class_weights == "balanced",
        smoothing=recipe.optim.label_smoothing,
        told=lambda: ground.told("solving the readout"),
    )
    logits = ground.seen(recipe, val_rows) @ weight.T + bias
    target = targets(ground.labels(val_rows), ground.task, ground.outputs)
    val_loss = float(mean_loss(logits, target, ground.task)[0]) if len(val_rows) else math.nan
    report = Epoch(
        1,
        1,
        logits.astype(np.float32),
        train_loss,
        val_loss,
        time.perf_counter() - began,
        len(rows),
    )
    head = {
        "head.weight": torch.from_numpy(weight.astype(np.float32)),
        "head.bias": torch.from_numpy(bias.astype(np.float32)),
    }
    return report, head
