"""The runs of several folds as one stored run that holds every row once.

Each row of it was scored by the model that had not seen the row's patient. Scores of different
models are not comparable, so the rows say which fold they are of, and figures are computed per
model and averaged (`Predictions.model`).
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairtune.experiment.files import write_json, write_table
from fairtune.experiment.judge import Judge
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import PROMPTS, StoredRun, added_costs, folded_key, recipe_card
from fairtune.experiment.tables import FOLD, SCORE, probabilities, to_predictions
from fairtune.mitigation import post
from fairtune.training.recipe import Recipe, Seeds

PLACE = ("fold", "folds")
Cut = float | tuple[float, ...] | None


def fold_together(made: Sequence[StoredRun], runs: Runs, judge: Judge) -> StoredRun:
    """Store the runs of all folds as one and return it; one run is returned as it is.

    `recipe.json` has the recipe without fold; `epochs.parquet` mean losses, and seconds and
    images added up; `costs.json` the sum of all. With the rule `{best: METRIC}` one epoch is kept
    for all folds, by the mean of the utility over them. The threshold is the median of those
    fitted on the folds; post-processing is fitted on the rows of all folds together.

    Args:
        made: One run per fold, in their order.
        runs: Where runs are stored.
        judge: Objectives and epoch rule.
    """
    key = folded_key([run.key for run in made])
    stored = runs.get(key)
    if len(made) == 1 or stored is not None:
        return made[0] if stored is None else stored
    first = made[0]
    frame = pd.concat(
        [run.table("val.parquet").assign(**{FOLD: i}) for i, run in enumerate(made)],
        ignore_index=True,
    )
    order = np.argsort(frame["row"].to_numpy(), kind="stable")
    frame = frame.iloc[order].reset_index(drop=True)
    scores = np.concatenate([run.scores for run in made], axis=1)[:, order]
    card = _card(made, key, judge)
    tables = [to_predictions(frame, card, probabilities(epoch, first.task)) for epoch in scores]
    members = first.recipe.mitigations
    kept = len(tables)
    if not isinstance(judge.validation.epoch, str):
        values = [judge.epoch_value(post.cross_fitted(members, p)) for p in tables]
        kept = _first_best(values)
    columns = [c for c in frame.columns if c == SCORE or c.startswith(f"{SCORE}:")]
    frame[columns] = tables[kept - 1].score.reshape(len(frame), -1)
    steps = post.fit(members, tables[kept - 1])
    cuts = [judge.threshold(p) for p in post.apply(steps, tables[kept - 1]).per_model()]
    operating: dict[str, Any] = {"epoch": kept, "threshold": _median(cuts)}
    if steps:
        operating["post"] = post.to_json(steps)

    def fill(folder: Path) -> None:
        write_json(folder / "recipe.json", card)
        (folder / "mask.txt").write_bytes((first.folder / "mask.txt").read_bytes())
        write_table(folder / "epochs.parquet", _epochs([run.epochs for run in made]))
        write_table(folder / "val.parquet", frame)
        held = io.BytesIO()
        np.save(held, scores)
        (folder / "val_scores.npy").write_bytes(held.getvalue())
        write_json(folder / "operating.json", operating)
        write_json(folder / "costs.json", added_costs([run.costs for run in made]))
        if first.prompts:
            write_json(folder / PROMPTS, first.prompts)

    return runs.write(key, fill)


def _card(made: Sequence[StoredRun], key: str, judge: Judge) -> dict[str, Any]:
    first = made[0]
    recipe: Recipe = first.recipe.of_data(fold=None)
    seeds: Seeds = first.seeds
    card = recipe_card(
        recipe,
        seeds,
        task=first.task,
        classes=first.card["classes"],
        judged_by=judge.to_json(),
        provenance={k: v for k, v in first.card["provenance"].items() if k not in PLACE},
    )
    return {**card, "key": key, "folds": [run.key for run in made]}


def _first_best(values: Sequence[float]) -> int:
    return values.index(max(values)) + 1


def _epochs(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    stacked = pd.concat(frames).groupby("epoch", sort=True)
    losses = stacked[["train_loss", "val_loss"]].mean()
    return losses.join(stacked[["seconds", "images"]].sum()).reset_index()


def _median(cuts: Sequence[Cut]) -> Cut:
    numbers = [cut for cut in cuts if isinstance(cut, float)]
    if len(numbers) == len(cuts):
        return statistics.median(numbers)
    several = [cut for cut in cuts if isinstance(cut, tuple)]
    return tuple(statistics.median(column) for column in zip(*several)) or None
