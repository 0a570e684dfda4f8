"""A head alone, fitted at once instead of trained by steps.

Without a mask the features never change, so they are computed once, and the usage finds the head
that fits them.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np

from fairtune.mitigation.post import first_of_patient
from fairtune.training.net import build_net
from fairtune.training.observer import Epoch
from fairtune.training.recipe import Recipe, Seeds
from fairtune.usage.at_once import AtOnce, OfRows, Problem, Seen
from fairtune.usage.readout import mean_loss, targets

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from fairtune.models.net import Net
    from fairtune.training.ground import Ground


def solve(recipe: Recipe, seeds: Seeds, ground: Ground) -> tuple[Epoch, dict[str, Tensor]]:
    """Fit the head on frozen features; return its one epoch and the head's tensors.

    Raises:
        DataError: The usage cannot fit these rows.
        Interrupted: There is a reason to leave.
    """
    began = time.perf_counter()
    usage = recipe.usage
    assert isinstance(usage, AtOnce)
    rows, val_rows = ground.fit_rows(recipe), ground.val_rows(recipe)
    found = usage.solve(
        Problem(
            fitted=seen(recipe, ground, rows),
            held=seen(recipe, ground, val_rows),
            task=ground.task,
            outputs=ground.outputs,
            l2=recipe.optim.l2,
            balance=recipe.optim.class_weights == "balanced",
            smoothing=recipe.optim.label_smoothing,
            seed=seeds.init,
            build=lambda: build_net(recipe, seeds, ground)[0],
            told=lambda: ground.told("solving the readout"),
        )
    )
    target = targets(ground.labels(val_rows), ground.task, ground.outputs)
    val_loss = math.nan
    if len(val_rows):
        val_loss = float(mean_loss(found.score, target, ground.task)[0])
    report = Epoch(
        1,
        1,
        found.score.astype(np.float32),
        found.loss,
        val_loss,
        time.perf_counter() - began,
        len(rows),
    )
    return report, {f"head.{name}": tensor for name, tensor in found.tensors.items()}


def seen(recipe: Recipe, ground: Ground, rows: NDArray[np.int64]) -> Seen:
    """Return rows as a head of the recipe's usage sees them."""
    usage, none = recipe.usage, np.empty(0, dtype=np.int64)
    named = usage.attribute if isinstance(usage, OfRows) else None
    return Seen(
        ground.seen(recipe, rows),
        ground.labels(rows),
        none if named is None else np.asarray(ground.pack.attribute(rows, named).codes),
        first_of_patient(ground.pack.patient_codes[rows], rows) if len(rows) else none,
    )


def begin(recipe: Recipe, seeds: Seeds, ground: Ground, net: Net) -> None:
    """Put training rows into the head of `net`, where the recipe's usage begins with some."""
    usage = recipe.usage
    if isinstance(usage, OfRows) and usage.draws:
        usage.begin(net, seen(recipe, ground, ground.fit_rows(recipe)), seeds.init)
