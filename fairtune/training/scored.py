"""A run of no epoch: nothing is fitted, and the validation rows are scored."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from fairtune.training.net import build_net
from fairtune.training.observer import Epoch
from fairtune.training.passes import scoring
from fairtune.training.recipe import Recipe, Seeds

if TYPE_CHECKING:
    from torch import Tensor

    from fairtune.training.ground import Ground

BATCH = 128


def score_once(recipe: Recipe, seeds: Seeds, ground: Ground) -> tuple[Epoch, dict[str, Tensor]]:
    """Score the validation rows; return the one report, and no tensors.

    The seeds do not matter: nothing is drawn.

    Raises:
        Interrupted: There is a reason to leave.
    """
    began = time.perf_counter()
    rows = ground.val_rows(recipe)
    net, _ = build_net(recipe, seeds, ground)
    loader = ground.loader(
        rows, BATCH, edit=ground.edit(recipe), text=ground.scored_text(recipe, net)
    )
    work = scoring(net, loader, ground.scorer(recipe), ground.autocast(recipe))
    while True:
        try:
            next(work)
        except StopIteration as end:
            scores, loss = end.value
            break
        ground.told("scoring")
    if not len(rows):
        scores, loss = scores.reshape(0, ground.outputs), math.nan
    return Epoch(1, 1, scores, math.nan, loss, time.perf_counter() - began, 0), {}
