"""What a run cost."""

from __future__ import annotations

from collections.abc import Sequence

from fairtune.training.edits import made_for
from fairtune.training.ground import Ground
from fairtune.training.observer import Epoch
from fairtune.training.recipe import Recipe


def costs_of(
    recipe: Recipe,
    ground: Ground,
    reports: Sequence[Epoch],
    seconds: float,
    cut: int,
    trained: int,
    first_images: int = 0,
    ended: bool = True,
) -> dict[str, float]:
    """Return the costs of a run, see `RunResult.costs`.

    Args:
        recipe: Its recipe.
        ground: Data and model.
        reports: Its epochs.
        seconds: Wall time of all of it.
        cut: Block before which it started to compute.
        trained: Number of trained values without the head.
        first_images: Images of a mitigation's first fit.
        ended: Whether it will not be gone on with: only then does it pay for its edit.
    """
    mask = ground.mask(recipe)
    images = sum(report.images for report in reports)
    lowest = mask.lowest_block(ground.units)
    return {
        "seconds": seconds,
        "epochs": float(sum(report.images > 0 for report in reports)),
        "images": float(images + first_images),
        "images_per_second": images / max(sum(r.seconds for r in reports), 1e-9),
        "trainable": float(trained),
        "trainable_share": trained / (ground.units.total or 1),
        "lowest_block": float(ground.units.image_depth if lowest is None else lowest),
        "cut": float(cut),
        **_queries(recipe, ground, ended),
    }


def _queries(recipe: Recipe, ground: Ground, ended: bool) -> dict[str, float]:
    """Return what the edit of a recipe cost, and how much of it this run has paid for."""
    made = made_for(ground, recipe)
    if made is None:
        return {}
    paid = made.take() if ended else 0
    return {"queries_used": float(made.queries), "queries_paid": float(paid)}
