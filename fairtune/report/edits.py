"""The edit of a model in words: what it is, how large, what it cost, what it asks for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairtune.config.registry import name_of
from fairtune.experiment.stored import EDIT, StoredRun
from fairtune.report.words import grouped
from fairtune.training.recipe import Recipe

LEVELS = np.float32(255)
APPLIED = (
    "The edit has to be added to every image before this model reads it, before normalisation, as "
    "it was in training, validation and test. “fairtune predict” and “evaluate” do so; elsewhere "
    "it is the file edit.safetensors beside the model."
)
UNPROVEN = (
    "Whether a head that is trained anew still reads the attribute from edited images is not "
    "measured here: “fairtune dne” does."
)


def recipe_edit(recipe: Recipe) -> str:
    """Return the edit of a recipe in a few words, `dne (white, sex)`; empty without one."""
    if not recipe.edited:
        return ""
    mode = getattr(recipe.edit, "mode", None)
    said = [*([] if mode is None else [name_of(mode)]), recipe.rule.attribute]
    inner = ", ".join(word for word in said if word)
    return name_of(recipe.edit) + (f" ({inner})" if inner else "")


def added(run: StoredRun) -> NDArray[np.float32] | None:
    """Return the cells of a run's edit, `(1 or c, m, m)` in 1/255; None where they are gone."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return np.asarray(load_file(run.folder / EDIT)["edit"], dtype=np.float32) * LEVELS
    except (OSError, SafetensorError, KeyError):
        return None


def edit_words(run: StoredRun) -> str:
    """Return what was added to the images of a run, in sentences; empty where nothing was."""
    if not run.recipe.edited:
        return ""
    norms = run.editing.get("norms")
    size = "" if norms is None else (
        f", of root mean square {norms['rms']:.2f} and at most {norms['linf']:.2f} levels of 255"
    )  # fmt: skip
    asked = run.queries
    cost = f" Making it took {grouped(asked)} queries of the model." if asked else ""
    return f" One edit was added to every image: {recipe_edit(run.recipe)}{size}.{cost} {UNPROVEN}"
