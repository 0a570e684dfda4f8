"""The edit of a recipe: made once for its training rows and model, then kept in the cache."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fairtune import store
from fairtune.config import digest
from fairtune.config.registry import name_of
from fairtune.data.batch import normalise
from fairtune.editing.edit import Edit
from fairtune.editing.learned import Learned
from fairtune.editing.scene import Scene
from fairtune.editing.stored import read_edit, to_bytes
from fairtune.errors import Interrupted
from fairtune.training.recipe import PROTOCOL, Recipe

if TYPE_CHECKING:
    from fairtune.training.ground import Ground

SHELF = "edits"
EDIT, RECORD = "edit.safetensors", "learned.json"


@dataclass(eq=False)
class Made:
    """An edit as the cache has it.

    Attributes:
        edit: The edit.
        record: Queries by what for, and the trace of its making.
        unpaid: A file that is there until a run has taken on itself what the making cost.
    """

    edit: Edit
    record: dict[str, Any]
    unpaid: Path

    @property
    def queries(self) -> int:
        """What making it cost, heads too, whoever paid."""
        return sum(int(n) for n in self.record.get("queries", {}).values())

    def take(self) -> int:
        """Return what a run pays for it: all for the first that ends, whoever it is, or nothing.

        A run that is cut off after the making has paid nothing, and the next one does.
        """
        try:
            self.unpaid.unlink()
        except OSError:  # not there, or on a disk that cannot be written
            return 0
        return self.queries


def made_for(ground: Ground, recipe: Recipe) -> Made | None:
    """Return the edit of `recipe`, made where nobody has yet; None where images stay as they are.

    It depends on the rows that the recipe is fitted on, on the model and on the edit's own
    fields; not on mask, mitigations or seeds of the run, which therefore share it.

    Raises:
        DataError, ModelError: It cannot be made; see `EditRule.make`.
    """
    rule = recipe.rule
    if not rule.acts:
        return None
    key = _key(ground, recipe)
    if key in ground.edits:
        return ground.edits[key]

    def make(folder: Path) -> None:
        learned = rule.make(scene_of(ground, recipe, states=states))
        unpaid.touch()
        (folder / EDIT).write_bytes(to_bytes(learned.edit))
        (folder / RECORD).write_text(json.dumps(_record(learned)))

    cache = ground.pack.cache
    states, unpaid = cache / SHELF / f".{key}.state", cache / SHELF / f".{key}.unpaid"
    folder = store.get_or_make(
        SHELF,
        key,
        make,
        root=cache,
        cap_gib=ground.cap_gib,
        waiting=lambda: ground.told("waiting for an edit that another process learns"),
    )
    record = json.loads((folder / RECORD).read_text())
    made = Made(read_edit(folder / EDIT), record, unpaid)
    made.edit.check(ground.pack.image_size, ground.spec.channels)
    ground.edits[key] = made
    return made


def _record(learned: Learned) -> dict[str, Any]:
    return {
        "queries": dict(learned.queries),
        "norms": learned.edit.norms(),
        "trace": [{name: finite(value) for name, value in row.items()} for row in learned.trace],
        "notes": list(learned.notes),
    }


def finite(value: Any) -> Any:
    """Return a value as JSON can say it: None for a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _key(ground: Ground, recipe: Recipe) -> str:
    rule = recipe.rule
    said = {name_of(recipe.edit): rule.canonical()}
    if "sha" in rule.canonical():
        return digest([said, ground.spec.name])
    return digest(
        {
            "edit": said,
            "data": ground.pack.table.fingerprint,
            "target": recipe.data.target,
            "rows": ground.fit_rows(recipe).tolist(),
            "pack": ground.pack.key,
            "view": [ground.spec.mean, ground.spec.std],
            "tensors": ground.tensor_digest(None),
            "precision": recipe.fit.precision,
            "protocol": PROTOCOL,
        }
    )


def scene_of(ground: Ground, recipe: Recipe, *, states: Path | None = None) -> Scene:
    """Return what an edit of `recipe` is learned on: its training rows and its frozen model.

    Args:
        ground: Data and model.
        recipe: A recipe with its precision resolved.
        states: Where the state of a search that is cut off is kept; None keeps none.
    """
    rows, spec = ground.fit_rows(recipe), ground.spec
    plain = recipe.unedited()
    images = ground.unnormalised(rows[:0])

    def embed(image: Tensor) -> Tensor:
        ground.backbone.eval()
        with ground.autocast(recipe):
            return ground.backbone.embed(normalise(image, spec.mean, spec.std)).float()

    def group(attribute: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        found = ground.pack.attribute(rows, attribute)
        return found.codes, found.names

    return Scene(
        rows=rows,
        image=images.image,
        embed=embed,
        features=lambda some: ground.features(plain, some),
        group=group,
        label=ground.labels(rows),
        task=ground.task,
        outputs=ground.outputs,
        channels=spec.channels,
        image_size=ground.pack.image_size,
        device=ground.device,
        differentiable=ground.backbone.differentiable,
        model=recipe.model.name,
        told=functools.partial(_told, ground),
        states=states,
    )


def _told(ground: Ground, what: str, done: int = 0, total: int = 0) -> None:
    """Tell how far `what` is; say of what is left that it is gone on with.

    Raises:
        Interrupted: There is a reason to leave.
    """
    try:
        ground.told(what, done, total)
    except Interrupted as left:
        said = f"stopped while {what}; the same command goes on from there"
        raise Interrupted(said, found=left.found) from None
