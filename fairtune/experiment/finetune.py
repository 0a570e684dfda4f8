"""Retrain a set of recipes with fresh seeds and test them all in one opening of the gate."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from fairtune.errors import Interrupted, StudyError
from fairtune.experiment.checkpoint import restore
from fairtune.experiment.gate import Gate
from fairtune.experiment.judge import Judge
from fairtune.experiment.run import Stopped, Watcher, run
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import TEST, StoredRun
from fairtune.experiment.tables import prediction_frame, probabilities
from fairtune.mitigation.post import to_json
from fairtune.training.ground import Ground
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.session import Session
from fairtune.training.train import Job

SEEN = "seen.parquet"


@dataclass(frozen=True)
class Entry:
    """One recipe to retrain.

    Attributes:
        label: Its name in tables: `pick`, or the baseline's.
        recipe: Resolved.
        seeds: One run for each.
        threshold: Frozen threshold for `train+val`, where nothing is fitted on validation.
        post: What post-processing found elsewhere, as operating.json has it, for the same case.
    """

    label: str
    recipe: Recipe
    seeds: tuple[Seeds, ...]
    threshold: float | tuple[float, ...] | None = None
    post: Sequence[Mapping[str, Any]] | None = None

    @property
    def settled(self) -> dict[str, Any]:
        """What is taken over into operating.json of a run without validation rows."""
        found = {"threshold": self.threshold, "post": self.post}
        return {name: value for name, value in found.items() if value is not None}


@runtime_checkable
class Begins(Protocol):
    """A watcher that wants to know what it is about to watch."""

    def begin(self, recipe: Recipe, seeds: Seeds) -> None:
        """Take in that the run of `recipe` with `seeds` begins."""


@dataclass(frozen=True)
class Finetuned:
    """The retrained and tested set.

    Attributes:
        runs: Runs by label, in the order of their seeds.
        deploy: The run to deploy by label: the one with the median validation objective.
        openings: How often the split had been opened from this results folder, this one included.
    """

    runs: Mapping[str, tuple[StoredRun, ...]]
    deploy: Mapping[str, StoredRun]
    openings: int


def finetune(
    entries: Sequence[Entry],
    session: Session,
    runs: Runs,
    judge: Judge,
    gate: Gate,
    *,
    command: str,
    study: str | None = None,
    watch: Callable[[str, int, int], Watcher] | None = None,
) -> Finetuned:
    """Train every entry with its seeds, fix what to deploy, then open the test once for the set.

    Args:
        entries: What to retrain; all on the same data.
        session: What the process keeps between runs.
        runs: Where runs are stored; a finished run is not trained again.
        judge: Objectives and the epoch rule.
        gate: The test gate.
        command: The user's command, written into the ledger of openings.
        study: Name of the study the entries come from.
        watch: `(label, number, of) -> Watcher` of one run, for progress.

    Raises:
        Interrupted: A run was stopped.
        StudyError: The entries are on different data; the test stays
            closed.
        StorageError: Runs cannot be kept; where machines share them, that is tried first.
    """
    runs.check()
    splits = {str(entry.recipe.data.split) for entry in entries}
    if len(splits) > 1:
        raise StudyError(
            "one opening of the test is for one split, and these recipes are on several",
            found={entry.label: entry.recipe.data.dataset for entry in entries},
            todo="give a recipe.json that was made on the study's own data",
        )
    made: dict[str, tuple[StoredRun, ...]] = {}
    for entry in entries:
        made[entry.label] = tuple(
            _one(entry, i, session, runs, judge, study, watch) for i in range(len(entry.seeds))
        )
    deploy = {label: median_run(group, judge) for label, group in made.items()}
    _test(entries, made, session, runs, gate, command, study)
    opened = gate.openings(str(entries[0].recipe.data.split))
    return Finetuned(made, deploy, len(opened))


def seeds_for(recipe: Recipe, asked: int) -> int:
    """Return how many runs tell what seeds do to a recipe: one where they do nothing."""
    return 1 if recipe.scored else asked


def taken_over(run: StoredRun) -> tuple[Any, Sequence[Mapping[str, Any]] | None]:
    """Return threshold and post-processing of a run, for an `Entry` that has no validation rows.

    Raises:
        StorageError: The run does not say what its post-processing found.
    """
    cut = run.operating["threshold"]
    found = to_json(run.post) or None
    return tuple(cut) if isinstance(cut, list) else cut, found


def median_run(runs: Sequence[StoredRun], judge: Judge) -> StoredRun:
    """Return the run whose validation objective is the (lower) median.

    The first of runs that have no validation rows. Where the official split has too few rows for
    an objective that a study answers with folds, the median is that of the validation loss.
    """
    if runs[0].recipe.fit.rows != "train":
        return runs[0]
    name = str(judge.primary)
    known = [judge.known_values(run.validation()) for run in runs]
    if judge.validation.folds > 1 and not all(name in found for found in known):
        values = [float(run.epochs["val_loss"][run.operating["epoch"] - 1]) for run in runs]
    else:
        values = [judge.values(run.validation())[name] for run in runs]
    return runs[values.index(statistics.median_low(values))]


def _one(
    entry: Entry,
    number: int,
    session: Session,
    runs: Runs,
    judge: Judge,
    study: str | None,
    watch: Callable[[str, int, int], Watcher] | None,
) -> StoredRun:
    watcher = None if watch is None else watch(entry.label, number + 1, len(entry.seeds))
    told: object = watcher
    if isinstance(told, Begins):
        told.begin(entry.recipe, entry.seeds[number])
    made = run(
        Job(entry.recipe, entry.seeds[number]),
        session,
        runs,
        judge,
        watcher=watcher,
        keep_weights=True,
        provenance={"study": study, "phase": "final", "label": entry.label},
    )
    if isinstance(made, Stopped):
        raise Interrupted(
            "the final runs were stopped; the test split stays closed",
            found=made.reason,
            todo="give the same command again: finished runs are kept",
        )
    if made.recipe.fit.rows != "train" and not entry.settled.keys() <= _known(made):
        operating = {**made.operating, **entry.settled}
        content = json.dumps(operating, indent=1, allow_nan=False)
        made = runs.update(made, {"operating.json": content.encode()})
    return made


def _known(run: StoredRun) -> set[str]:
    return {name for name, value in run.operating.items() if value is not None}


def _test(
    entries: Sequence[Entry],
    made: Mapping[str, tuple[StoredRun, ...]],
    session: Session,
    runs: Runs,
    gate: Gate,
    command: str,
    study: str | None,
) -> None:
    waiting = [run for group in made.values() for run in group if not run.has_test]
    if not waiting:
        return
    digests = list(dict.fromkeys(str(run.card["digest"]) for run in waiting))
    test_pass = gate.open(str(entries[0].recipe.data.split), digests, command=command, study=study)
    for stored in waiting:
        restored = restore(stored, session)
        ground = restored.ground
        rows = ground.pack.rows("test", test_pass=test_pass)
        logits = restored.score(rows, test_pass=test_pass)
        score = probabilities(logits, ground.task)
        predictions = ground.pack.predictions(rows, score, test_pass=test_pass)
        frame = prediction_frame(
            predictions, ground.patient_hashes(rows), ground.pack.table.classes
        )
        add_tables(stored, runs, {TEST: frame, SEEN: seen_rows(ground, stored.recipe)})


def add_tables(run: StoredRun, runs: Runs, frames: Mapping[str, pd.DataFrame]) -> None:
    """Add tables to a finished run, all at once.

    Raises:
        StorageError: The disk is full, then the run stays as it was; or it cannot be shared.
    """
    runs.update(run, {name: frame.to_parquet(index=False) for name, frame in frames.items()})
    run.__dict__.pop("has_test", None)


def seen_rows(ground: Ground, recipe: Recipe) -> pd.DataFrame:
    """Return image hash and patient hash of every row a run was trained or validated on.

    Where nothing is fitted that is the validation rows: a threshold was found on them.
    """
    pack, names = ground.pack, ("val",) if recipe.scored else ("train", "val")
    rows = np.sort(np.concatenate([pack.rows(name) for name in names]))
    return pd.DataFrame({"image": pack.image_hashes[rows], "patient": ground.patient_hashes(rows)})
