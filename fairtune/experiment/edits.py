"""An edit that is learned on its own: found, described, and shown on a few images."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from fairtune.editing.cohort import compact
from fairtune.editing.edit import Edit
from fairtune.editing.stored import read_edit
from fairtune.errors import ConfigError, Interrupted
from fairtune.experiment.assessed import Pair
from fairtune.training.edits import made_for
from fairtune.training.ground import Ground
from fairtune.training.recipe import Recipe
from fairtune.training.session import Session

SUFFIX = ".safetensors"
PAIRS = 4


def check_name(path: Path) -> None:
    """Refuse a name of which the format cannot be told.

    Raises:
        ConfigError: It does not end in `.safetensors`.
    """
    if path.suffix != SUFFIX:
        raise ConfigError(
            "an edit is written as safetensors",
            where="--to",
            found=path.name,
            allowed=f"a name that ends in {SUFFIX}",
        )


def learn_edit(recipe: Recipe, session: Session) -> Edit:
    """Return the edit of a resolved recipe, from the cache where it was made before.

    Raises:
        DataError, ModelError, RunError: It cannot be made, or nothing could be told of it: the
            attribute has one value among training or validation rows.
        Interrupted: There was a reason to leave; the search goes on from there the next time.
    """
    ground = session.ground(recipe)
    attribute = recipe.rule.attribute
    if attribute is not None:
        named = ground.pack.attribute(ground.val_rows(recipe), attribute)
        compact(named.codes, named.names, attribute, "validation rows")
    try:
        made = made_for(ground, recipe)
    except Interrupted as left:
        raise Interrupted(
            "stopped before the edit was found; what was done of the search is kept",
            found=left.found,
            todo="give the same command again: it goes on from there",
        ) from None
    assert made is not None
    return made.edit


def pairs_of(recipe: Recipe, session: Session) -> list[Pair]:
    """Return the first training images of as many patients, without and with the edit."""
    ground = session.ground(recipe)
    edit = ground.edit(recipe)
    assert edit is not None
    rows = ground.fit_rows(recipe)
    first = np.unique(ground.pack.patient_codes[rows], return_index=True)[1]
    return [_pair(ground, edit, int(row)) for row in rows[np.sort(first)[:PAIRS]]]


def _pair(ground: Ground, edit: Edit, row: int) -> Pair:
    pixels = ground.pack.images(np.array([row]))
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    edited = edit.on("cpu")(image).clamp(0, 1).mul(255).round().byte()
    return Pair(pixels[0], edited.permute(0, 2, 3, 1)[0].numpy())


def described(path: Path) -> Iterable[tuple[str, str]]:
    """Return what is in an edit's file, as names and values.

    Raises:
        ModelError: No such file, or it holds no edit.
    """
    edit = read_edit(path)
    channels, side, _ = edit.value.shape
    norms = edit.norms()
    yield "values", f"{channels} x {side} x {side}, for images of {edit.image_size} px"
    yield "clamp", "edited images are cut to [0, 1]" if edit.clamp else "edited images are not cut"
    yield "root mean square", f"{norms['rms']:.3f} / 255"
    yield "largest pixel", f"{norms['linf']:.3f} / 255"
    yield "L2 norm", f"{norms['l2']:.3f} in [0, 1]"
    yield "SHA-256", edit.sha
    for name, value in sorted(edit.about.items()):
        if name != "norms":
            yield name, value if isinstance(value, str) else json.dumps(value)
