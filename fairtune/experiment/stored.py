"""One finished run, read on demand and without torch.

Post-processing is done when its tables are read: of validation cross-fitted, of test with what
operating.json keeps.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairtune.config import digest, parse
from fairtune.errors import StorageError
from fairtune.evaluation.predictions import Predictions
from fairtune.experiment.tables import probabilities, to_predictions
from fairtune.mitigation.post import Step, apply, cross_fitted, from_json, post_processing
from fairtune.training.recipe import Recipe, Seeds

if TYPE_CHECKING:
    from fairtune.editing.edit import Edit

DONE = "DONE"
WEIGHTS = "model.safetensors"
MITIGATIONS = "mitigations.json"
TEST = "test.parquet"
PROMPTS = "prompts.json"
EDIT, EDITING = "edit.safetensors", "edit.json"
USED, PAID = "queries_used", "queries_paid"
"""Costs of a run with an edit: queries of its making, and how many of them this run asked."""


@dataclass(frozen=True)
class StoredRun:
    """One finished run, read on demand.

    Attributes:
        folder: Where it stands.
    """

    folder: Path

    @cached_property
    def card(self) -> dict[str, Any]:
        """The content of recipe.json."""
        return self._json("recipe.json")

    @property
    def key(self) -> str:
        """Key of the run."""
        return str(self.card["key"])

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return parse(Recipe, self.card["recipe"])

    @property
    def seeds(self) -> Seeds:
        """Seeds of the run."""
        return parse(Seeds, self.card["seeds"])

    @cached_property
    def costs(self) -> dict[str, float]:
        """Seconds, images, trained parameters."""
        return self._json("costs.json")

    @cached_property
    def operating(self) -> dict[str, Any]:
        """Threshold and kept epoch."""
        return self._json("operating.json")

    @property
    def texts(self) -> dict[str, Any]:
        """What is to be known of its texts and prompts; see `text_facts`."""
        found: dict[str, Any] = self.card["provenance"].get("texts", {})
        return found

    @cached_property
    def prompts(self) -> dict[str, Any]:
        """What its classes are called, as a dataset spec has it; empty where no prompt is read."""
        return self._json(PROMPTS) if (self.folder / PROMPTS).is_file() else {}

    @cached_property
    def mitigations(self) -> dict[str, Any]:
        """What is to be known of each mitigation; empty without any."""
        return self._json(MITIGATIONS) if (self.folder / MITIGATIONS).is_file() else {}

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """One row per epoch."""
        return self.table("epochs.parquet")

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """`(epochs, rows, outputs)` validation logits, memory-mapped."""
        with self._reading("val_scores.npy"):
            loaded: NDArray[np.float32] = np.load(self.folder / "val_scores.npy", mmap_mode="r")
        return loaded

    @property
    def weights_file(self) -> Path | None:
        """The file of what trained, or None when this run kept none."""
        path = self.folder / WEIGHTS
        return path if path.is_file() else None

    @cached_property
    def edit(self) -> Edit | None:
        """What was added to every image, training, validation and test alike; None for nothing.

        Raises:
            ModelError: The file is damaged or missing.
        """
        if "edit" not in self.card["recipe"]:
            return None
        from fairtune.editing.stored import read_edit

        return read_edit(self.folder / EDIT)

    @cached_property
    def has_test(self) -> bool:
        """Whether the test split was scored."""
        return (self.folder / TEST).is_file()

    def validation(self, epoch: int | None = None) -> Predictions:
        """Return the validation predictions of `epoch`, counted from 1; default: the kept one.

        Post-processing is cross-fitted.
        """
        number = int(self.operating["epoch"]) if epoch is None else epoch
        if not self._posts:
            return self.raw_validation(number)
        if number not in self._processed:
            raw = self.raw_validation(number)
            self._processed[number] = cross_fitted(self.recipe.mitigations, raw)
        return self._processed[number]

    def raw_validation(self, epoch: int) -> Predictions:
        """Return what the model of `epoch` said on validation, before any post-processing."""
        frame = self.table("val.parquet")
        score = probabilities(self.scores[epoch - 1], self.task)
        return self._costed(to_predictions(frame, self.card, score))

    def test(self) -> Predictions:
        """Return the test predictions of a final run."""
        return apply(self.post, self.raw_test())

    def raw_test(self) -> Predictions:
        """Return what the model of a final run said on test, before any post-processing."""
        return self._costed(to_predictions(self.table(TEST), self.card))

    @cached_property
    def editing(self) -> dict[str, Any]:
        """What is to be known of its edit: queries, norms, trace; empty without one."""
        return self._json(EDITING) if (self.folder / EDITING).is_file() else {}

    @property
    def queries(self) -> float:
        """Batches that making its edit asked the model about, whoever paid; of folds the mean."""
        return self.costs.get(USED, 0.0) / len(self.card.get("folds", [self.key]))

    def _costed(self, predictions: Predictions) -> Predictions:
        # The costs of a run without an edit are not read for it.
        edited = "edit" in self.card["recipe"]
        return replace(predictions, queries=self.queries) if edited else predictions

    @cached_property
    def post(self) -> tuple[Step, ...]:
        """What post-processing found on all of validation; empty where the recipe has none.

        Raises:
            StorageError: The recipe has some, and operating.json does not say what it found.
        """
        if not self._posts:
            return ()
        if "post" not in self.operating:
            raise StorageError(
                "the run does not say what its post-processing found on validation",
                where=self.folder / "operating.json",
                todo="give the command that made the run again",
            )
        return from_json(self.operating["post"])

    @cached_property
    def _posts(self) -> bool:
        # The card of a run without any is not parsed for it.
        named = self.card["recipe"].get("mitigations")
        return bool(named) and bool(post_processing(self.recipe.mitigations))

    @cached_property
    def _processed(self) -> dict[int, Predictions]:
        return {}

    @property
    def task(self) -> str:
        """Kind of label."""
        return str(self.card["task"])

    def _json(self, name: str) -> dict[str, Any]:
        with self._reading(name):
            loaded: dict[str, Any] = json.loads((self.folder / name).read_text())
        return loaded

    def table(self, name: str) -> pd.DataFrame:
        """Return one of the run's tables.

        Raises:
            StorageError: The file is missing or damaged.
        """
        with self._reading(name):
            return pd.read_parquet(self.folder / name)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, EOFError) as error:
            raise StorageError(
                f"the run is damaged: {name} cannot be read",
                where=self.folder,
                found=str(error).splitlines()[0],
                todo="remove the folder: the command that made the run makes it again",
            ) from None


def folded_key(keys: Sequence[str]) -> str:
    """Return the key of the runs of all folds as one: of one run its own."""
    return keys[0] if len(keys) == 1 else digest(["folds", *keys])


def added_costs(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return what several runs of one recipe cost together: what can be is added up.

    That is seconds, epochs, images and queries. Images a second are those of all; what follows
    from the mask is that of the last run.
    """
    if len(costs) == 1:
        return dict(costs[0])
    added = ("seconds", "epochs", "images", *(name for name in (USED, PAID) if name in costs[0]))
    summed = {name: sum(c[name] for c in costs) for name in added}
    busy = sum(c["images"] / c["images_per_second"] for c in costs if c["images_per_second"] > 0)
    return {**costs[-1], **summed, "images_per_second": summed["images"] / max(busy, 1e-9)}


def recipe_card(
    recipe: Recipe,
    seeds: Seeds,
    *,
    task: str,
    classes: Sequence[str],
    judged_by: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of recipe.json; `finetune --mask` needs nothing else.

    Args:
        recipe: Resolved recipe.
        seeds: Seeds of the run.
        task: Kind of label.
        classes: Names of classes or targets.
        judged_by: Objectives, constraints and the `validation` block; not part of the key.
        provenance: Study, trial, versions, host, times; not part of the key.
    """
    return {
        "key": recipe.key(seeds),
        "digest": recipe.identity(),
        "recipe": recipe.to_json(),
        "seeds": seeds.to_json(),
        "task": task,
        "classes": list(classes),
        "judged_by": dict(judged_by),
        "provenance": dict(provenance),
    }
