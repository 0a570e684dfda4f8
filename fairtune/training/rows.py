"""Which rows a recipe is fitted on, and which it is validated on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairtune.config import digest
from fairtune.data.pack import Pack
from fairtune.data.subset import fold_rows, fraction_rows
from fairtune.errors import DataError
from fairtune.training.recipe import Recipe

Rows = NDArray[np.int64]
Known = dict[str, tuple[Rows, Rows]]


def rows_of(pack: Pack, recipe: Recipe, known: Known) -> tuple[Rows, Rows]:
    """Return the rows a recipe is fitted on and those it is validated on, both ascending.

    Args:
        pack: The data.
        recipe: Its data part and `fit.rows` decide, for a fraction the batch size too.
        known: What was returned before.

    Raises:
        DataError: Too few patients for the folds, or a fraction that leaves a class, a group or
            less than a batch.
    """
    part = recipe.data
    fold = None if part.fold is None else part.fold.to_json()
    batch = None if recipe.solved else recipe.optim.batch_size
    name = digest([fold, part.fraction, part.seed, recipe.fit.rows, batch])
    if name not in known:
        known[name] = _drawn(pack, recipe)
    return known[name]


def _drawn(pack: Pack, recipe: Recipe) -> tuple[Rows, Rows]:
    part, fold = recipe.data, recipe.data.fold
    if fold is not None:
        fit, val = fold_rows(pack, fold.index, fold.of, fold.by, part.seed)
    else:
        fit, val = pack.rows("train"), pack.rows("val")
        if recipe.fit.rows == "train+val":
            fit, val = np.sort(np.concatenate([fit, val])), val[:0]
    if part.fraction < 1:
        fit = fraction_rows(pack, fit, part.fraction, part.seed)
        if not recipe.solved and len(fit) < recipe.optim.batch_size:
            raise DataError(
                "this fraction of the training patients is less than one batch",
                where="recipe.data.fraction",
                found=f"{len(fit)} rows at {part.fraction:g}",
                allowed=f"at least {recipe.optim.batch_size} rows (recipe.optim.batch_size)",
                todo="take a larger fraction or a smaller batch",
            )
    return fit, val
