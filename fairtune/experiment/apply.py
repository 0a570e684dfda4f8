"""A checkpoint on other data: evaluate on a data set, predict without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairtune.config.registry import written
from fairtune.data.gatekeep import TestPass
from fairtune.data.spec import load_spec
from fairtune.data.split import PARTS
from fairtune.errors import ConfigError, DataError
from fairtune.evaluation.objectives import check_metric
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import ThresholdRule
from fairtune.evaluation.table import group_table
from fairtune.experiment.checkpoint import restore
from fairtune.experiment.finetune import SEEN
from fairtune.experiment.gate import Gate
from fairtune.experiment.judge import Judge
from fairtune.experiment.stored import StoredRun
from fairtune.experiment.tables import probabilities
from fairtune.mitigation.post import apply, cross_fitted, strangers
from fairtune.training.ground import Ground
from fairtune.training.pins import without_pins
from fairtune.training.session import Session


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A checkpoint's figures on a data set.

    Attributes:
        frozen: Group table with threshold and post-processing as they were frozen on the
            checkpoint's validation rows.
        refitted: Group table with both fitted on these rows, cross-fitted.
        predictions: The predictions behind the frozen one.
        dropped: Rows left out because image or patient was in training or validation.
        openings: How often this split's test rows had been opened; None if they were not.
        notes: What is to be known of post-processing on these rows.
    """

    frozen: pd.DataFrame
    refitted: pd.DataFrame
    predictions: Predictions
    dropped: int
    openings: int | None
    notes: tuple[str, ...] = ()


def evaluate(
    run: StoredRun,
    session: Session,
    *,
    dataset: str,
    split: str,
    target: str | None = None,
    attributes: Sequence[str] = (),
    metrics: Sequence[str],
    gate: Gate,
    command: str,
) -> Evaluated:
    """Score a checkpoint on a split of a data set.

    Rows whose image or patient the checkpoint was trained or validated on are left out and
    counted. Test rows are read through the gate; those that `finetune` has scored with this
    checkpoint are not opened again.

    Args:
        run: A finished run with weights.
        session: Opens data and pretrained weights.
        dataset: Dataset spec.
        split: `train`, `val`, `test` or `all`.
        target: Target of that data set, default: that of the checkpoint.
        attributes: Attributes, default: those of the checkpoint.
        metrics: What to compute.
        gate: The test gate.
        command: The user's command.

    Raises:
        DataError: No row is left, or the task is another.
        ConfigError: Unknown split or metric.
    """
    if split not in (*PARTS, "all"):
        raise ConfigError("unknown split", where="--split", found=split, allowed=[*PARTS, "all"])
    for name in metrics:
        check_metric(name)  # before the gate: a slip of the pen must not cost an opening
    own = run.recipe.data
    same = dataset == own.dataset and target in (None, own.target) and not attributes
    if split == "test" and same and run.has_test:
        # Its own test rows have been scored by `finetune`: nothing needs to be opened again.
        opened = len(gate.openings(str(own.split)))
        return _figures(run, run.raw_test(), list(own.attributes), metrics, 0, opened)
    recipe = without_pins(run.recipe)
    asked = tuple(attributes) or recipe.data.attributes
    part = recipe.data.model_copy(
        update={
            "dataset": dataset,
            "target": target or recipe.data.target,
            "attributes": (*asked, *_needed(run, dataset, asked)),
            "where": recipe.data.where if dataset == recipe.data.dataset else {},
        }
    )
    recipe = recipe.model_copy(update={"data": part})
    _refuse_other_question(run, session.ground(recipe, scored=dataset != own.dataset))
    restored = restore(run, session, recipe)
    ground = restored.ground
    known = _known(run)
    test_pass, openings = None, None
    if split in ("test", "all"):
        split_hash = ground.pack.table.split_hash
        digests = [str(run.card["digest"])]
        test_pass = gate.open(split_hash, digests, command=command)
        openings = len(gate.openings(split_hash))
    rows = _rows(ground, split, test_pass)
    kept = rows[~_seen(known, ground, rows)]
    if not len(kept):
        raise DataError(
            "every row was in the checkpoint's training or validation rows",
            where=f"{dataset}, split {split}",
            found=f"{len(rows)} rows",
        )
    score = probabilities(restored.score(kept, test_pass=test_pass), ground.task)
    predictions = ground.pack.predictions(kept, score, test_pass=test_pass)
    return _figures(run, predictions, asked, metrics, len(rows) - len(kept), openings)


def _refuse_other_question(run: StoredRun, ground: Ground) -> None:
    """Refuse a target that the checkpoint does not answer.

    Raises:
        DataError: It is of another kind, or has other classes than those that prompts say.
    """
    if ground.task != run.task:
        raise DataError("the target is of another kind", found=ground.task, allowed=run.task)
    own, found = run.card["classes"], list(ground.pack.table.classes)
    fits = own == found if ground.task == "multiclass" else len(own) == len(found)
    if run.prompts and not fits:
        raise DataError(
            "the checkpoint's prompts say other classes than those of the target",
            found=found,
            allowed=own,
        )


def _needed(run: StoredRun, dataset: str, asked: Sequence[str]) -> tuple[str, ...]:
    """Return the attributes of a data set that post-processing needs beside those asked for."""
    wanted = [part for step in run.post for part in step.fitted.attribute.split("*")]
    known = load_spec(dataset).attributes if wanted else {}
    return tuple(dict.fromkeys(a for a in wanted if a in known and a not in asked))


def _figures(
    run: StoredRun,
    raw: Predictions,
    names: Sequence[str],
    metrics: Sequence[str],
    dropped: int,
    openings: int | None,
) -> Evaluated:
    judge = Judge.from_json(run.card["judged_by"])
    cut = run.operating["threshold"]
    frozen = tuple(cut) if isinstance(cut, list) else cut
    rule: ThresholdRule = judge.validation.rule
    predictions = apply(run.post, raw)
    again, refused = _refitted(run, raw, predictions)
    tables = [
        group_table(
            table, metrics, list(names), minimum=judge.validation.minimum, threshold=threshold
        )
        for table, threshold in ((predictions, rule if frozen is None else frozen), (again, rule))
    ]
    notes = (*strangers(run.post, raw), *refused)
    return Evaluated(tables[0], tables[1], predictions, dropped, openings, notes)


def _refitted(
    run: StoredRun, raw: Predictions, frozen: Predictions
) -> tuple[Predictions, tuple[str, ...]]:
    """Return the rows with their post-processing cross-fitted, or why it stays as it was."""
    if not run.post:
        return frozen, ()
    try:
        return cross_fitted(run.recipe.mitigations, raw), ()
    except DataError as error:
        return frozen, (f"post-processing could not be fitted on these rows: {error.what}",)


def _rows(
    ground: Ground, split: str, test_pass: TestPass | None
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    names = PARTS if split == "all" else (split,)
    parts = [ground.pack.rows(name, test_pass=test_pass) for name in names]
    return np.sort(np.concatenate(parts))


def _known(run: StoredRun) -> pd.DataFrame:
    path = run.folder / SEEN
    if not path.is_file():
        raise DataError(
            "the checkpoint does not say which rows it was trained on",
            where=run.folder,
            todo="make it with `fairtune finetune`",
        )
    return run.table(SEEN)


def _seen(
    known: pd.DataFrame, ground: Ground, rows: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    images = np.isin(ground.pack.image_hashes[rows], known["image"].to_numpy(dtype=str))
    patients = np.isin(np.array(ground.patient_hashes(rows)), known["patient"].to_numpy(dtype=str))
    return np.asarray(images | patients)


def without_groups(run: StoredRun) -> str | None:
    """Return what `predict` cannot do as the run's post-processing would have it, or None."""
    if not run.post:
        return None
    named = " and ".join(f"{step.name} (by {step.fitted.attribute})" for step in run.post)
    return (
        f"{named} needs each patient's group, which an image does not tell: scores are made by "
        "the rule of all validation rows pooled"
    )


def predict(run: StoredRun, session: Session, images: Sequence[Path]) -> pd.DataFrame:
    """Return `image, score` (and `positive` at the frozen threshold) for image files.

    No labels are needed. Images are decoded as the checkpoint's data set says. Post-processing
    has no groups to go by and treats every row as of unknown group; see `without_groups`.

    Raises:
        DataError: An image cannot be read; all of them are named. Or the model scores images with
            their texts, which image files do not have.
    """
    import torch

    from fairtune.data.batch import normalise
    from fairtune.data.files import decode_files

    if (error := _without_texts(run)) is not None:
        raise error
    restored = restore(run, session)
    ground = restored.ground
    pack = ground.pack
    view = None if restored.edit is None else restored.edit.on(ground.device)
    logits = []
    for start in range(0, len(images), 128):
        part = images[start : start + 128]
        pixels = decode_files(part, pack.table.spec, pack.image_size, pack.channels)
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(ground.device)
        if view is not None:
            image = view(image.float() / 255)
        logits.append(restored.logits(normalise(image, ground.spec.mean, ground.spec.std)))
    score = _unlabelled(run, probabilities(torch.cat(logits).numpy(), ground.task))
    frame = pd.DataFrame({"image": [str(path) for path in images]})
    cut = run.operating["threshold"]
    if score.ndim == 1:
        frame["score"] = score
        frame["positive"] = score >= float(cut)
        return frame
    for j, name in enumerate(pack.table.classes):
        frame[f"score:{name}"] = score[:, j]
    return frame


def _without_texts(run: StoredRun) -> DataError | None:
    """Return that image files are not enough for the run's usage, or None."""
    usage = run.recipe.usage
    if not usage.reads_text or usage.pairs:
        return None
    return DataError(
        "the model scores an image together with its text, and image files have none",
        where=run.folder,
        found=written(usage),  # type: ignore[arg-type]
        todo="score a data set with texts: fairtune evaluate RUN --dataset D",
    )


def _unlabelled(run: StoredRun, score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores of rows of which no more is known, post-processed."""
    if not run.post:
        return score
    label = np.zeros(score.shape if run.task == "multilabel" else len(score), dtype=np.int64)
    task: Any = run.task
    return apply(run.post, Predictions(label, score, task=task)).score
