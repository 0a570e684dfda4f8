"""The folder of finished runs: written once, read by search, selection and report without torch.

```
<out>/runs/<key[:2]>/<key>/
    recipe.json      recipe, seeds, what it was judged by, provenance
    mask.txt         the mask for people: one unit a line, with its method where it is not `direct`
    epochs.parquet   epoch, train_loss, val_loss, seconds, images
    val.parquet      row, patient (keyed hash), label(s), attributes, score(s) of the kept epoch
    val_scores.npy   (epochs, rows, outputs) fp32 logits
    test.parquet     like val.parquet; final runs only
    operating.json   threshold and the epoch that was kept; `post`, what post-processing found on
                     all of validation, where the recipe has any
    mitigations.json what each mitigation did, and its weight beside the task; where there is any
    costs.json       seconds, images, trained parameters
                     of several folds together: the sum; val.parquet has a column `fold:`
    model.safetensors  what trained; final runs only
    DONE             size and SHA-256 of every file; a folder without it does not count
```

Tables hold what the model said. Post-processing is done when they are read: of validation
cross-fitted, of test with what operating.json keeps.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from fairtune import store
from fairtune.config import digest, parse
from fairtune.errors import StorageError
from fairtune.evaluation.predictions import Predictions
from fairtune.mitigation.post import Step, apply, cross_fitted, from_json, post_processing
from fairtune.training.recipe import Recipe, Seeds

DONE = "DONE"
WEIGHTS = "model.safetensors"
MITIGATIONS = "mitigations.json"

LABEL, SCORE = "label", "score"
FOLD = "fold:"
"""Column of the fold that a row was validated in, from 0; no attribute can be called so."""


@dataclass(frozen=True)
class Runs:
    """All runs below one results folder.

    Attributes:
        out: The results folder.
    """

    out: Path

    def folder(self, key: str) -> Path:
        """Return where the run `key` stands or would stand."""
        return self.out / "runs" / key[:2] / key

    def get(self, key: str) -> StoredRun | None:
        """Return the finished run `key`, or None."""
        folder = self.folder(key)
        return StoredRun(folder) if (folder / DONE).is_file() else None

    def write(self, key: str, fill: Callable[[Path], None]) -> StoredRun:
        """Let `fill` write the files of run `key`, then make them appear at once.

        Raises:
            StorageError: The disk is full or cannot be written; nothing is left behind.
        """
        folder = self.folder(key)
        temporary = folder.with_name(f".{key}.{uuid.uuid4().hex[:8]}.part")
        with store.writing(self.out, what=f"run {key}"):
            temporary.mkdir(parents=True)
            try:
                fill(temporary)
                store.seal(temporary, DONE)
                if folder.exists():
                    shutil.rmtree(folder)
                temporary.rename(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return StoredRun(folder)


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
    def has_test(self) -> bool:
        """Whether the test split was scored."""
        return (self.folder / "test.parquet").is_file()

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
        return to_predictions(frame, self.card, probabilities(self.scores[epoch - 1], self.task))

    def test(self) -> Predictions:
        """Return the test predictions of a final run."""
        return apply(self.post, self.raw_test())

    def raw_test(self) -> Predictions:
        """Return what the model of a final run said on test, before any post-processing."""
        return to_predictions(self.table("test.parquet"), self.card)

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
    """Return what several runs of one recipe cost together: seconds, epochs and images added up.

    Images a second are those of all; what follows from the mask is that of the last run.
    """
    if len(costs) == 1:
        return dict(costs[0])
    summed = {name: sum(c[name] for c in costs) for name in ("seconds", "epochs", "images")}
    busy = sum(c["images"] / c["images_per_second"] for c in costs if c["images_per_second"] > 0)
    return {**costs[-1], **summed, "images_per_second": summed["images"] / max(busy, 1e-9)}


def probabilities(logits: NDArray[np.float32], task: str) -> NDArray[np.float64]:
    """Return probabilities in float64, where distinct fp32 logits stay distinct.

    Args:
        logits: `(rows, outputs)`.
        task: `binary` gives `(rows,)`; `multiclass` softmax over outputs; `multilabel` each.
    """
    wide = np.asarray(logits, dtype=np.float64)
    if task == "multiclass":
        softmax: NDArray[np.float64] = special.softmax(wide, axis=1)
        return softmax
    chance: NDArray[np.float64] = special.expit(wide)
    return chance[:, 0] if task == "binary" else chance


def prediction_frame(
    predictions: Predictions, patient_hashes: Sequence[str], targets: Sequence[str]
) -> pd.DataFrame:
    """Return predictions as a table free of raw identifiers.

    Args:
        predictions: What was predicted, with probabilities as scores.
        patient_hashes: Keyed hash of the patient of every row.
        targets: Names of the score columns when there are several.
    """
    columns: dict[str, Any] = {"row": predictions.row, "patient": list(patient_hashes)}
    for name, values in ((LABEL, predictions.label), (SCORE, predictions.score)):
        if values.ndim == 1:
            columns[name] = values
        else:
            columns |= {f"{name}:{t}": values[:, j] for j, t in enumerate(targets)}
    for attribute in predictions.attributes.values():
        columns[attribute.name] = pd.Categorical.from_codes(
            attribute.codes, categories=pd.Index(list(attribute.names))
        )
    return pd.DataFrame(columns)


def to_predictions(
    frame: pd.DataFrame, card: Mapping[str, Any], score: NDArray[np.float64] | None = None
) -> Predictions:
    """Return the predictions of a table that `prediction_frame` made.

    Args:
        frame: The table.
        card: recipe.json of the run: names the attributes.
        score: Takes the place of the table's scores.
    """
    labels = [c for c in frame.columns if c == LABEL or c.startswith(f"{LABEL}:")]
    scores = [c for c in frame.columns if c == SCORE or c.startswith(f"{SCORE}:")]
    if score is not None:
        frame = frame.copy()
        frame[scores] = score.reshape(len(frame), -1)
    made = Predictions.from_frame(
        frame,
        label=labels if len(labels) > 1 else labels[0],
        score=scores if len(scores) > 1 else scores[0],
        attributes=list(card["recipe"]["data"]["attributes"]),
        patient="patient",
        row="row",
    )
    return replace(made, model=frame[FOLD].to_numpy()) if FOLD in frame.columns else made


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
