"""Make one run and store it, or return the stored one."""

from __future__ import annotations

import io
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import fairtune
from fairtune.editing.stored import to_bytes
from fairtune.errors import LOST, DataError, Interrupted, RunError
from fairtune.evaluation.predictions import Predictions
from fairtune.experiment.files import epochs_frame, mask_text, write_json, write_table
from fairtune.experiment.judge import Judge
from fairtune.experiment.polarity import wrong_way
from fairtune.experiment.runs import Runs
from fairtune.experiment.stored import (
    DONE,
    EDIT,
    EDITING,
    MITIGATIONS,
    PAID,
    PROMPTS,
    USED,
    WEIGHTS,
    StoredRun,
    recipe_card,
)
from fairtune.experiment.tables import prediction_frame, probabilities
from fairtune.experiment.text_facts import TEXTS, text_facts, text_warnings
from fairtune.mitigation import post
from fairtune.training.checkpoint import Checkpoints
from fairtune.training.edits import made_for
from fairtune.training.ground import Ground
from fairtune.training.observer import Decision, Epoch
from fairtune.training.recipe import Recipe
from fairtune.training.session import Session
from fairtune.training.texts import prompts_of
from fairtune.training.train import Job, RunResult, train_each
from fairtune.usage.at_once import AtOnce


class Watcher(Protocol):
    """Follows a run with its validation figures."""

    def epoch(self, report: Epoch, values: Mapping[str, float]) -> str | None:
        """Take in an epoch with its objectives; return a reason to stop, or None."""

    def poll(self) -> str | None:
        """Return a reason to stop now, or None; a flag, no I/O."""


class Unwatched:
    """A watcher that lets every run finish."""

    def epoch(self, report: Epoch, values: Mapping[str, float]) -> str | None:
        """Continue."""
        return None

    def poll(self) -> str | None:
        """Continue."""
        return None


@dataclass(frozen=True)
class Stopped:
    """A run that its watcher ended: nothing of it is stored.

    Attributes:
        reason: The watcher's word.
        epochs: Finished epochs.
        values: Objectives of the last finished epoch.
        seconds: Wall time spent.
        queries: What its edit cost, and how much of it this run paid, as costs.json has them.
    """

    reason: str
    epochs: int
    values: Mapping[str, float]
    seconds: float
    queries: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Judged:
    """The training observer that judges every epoch for a watcher."""

    ground: Ground
    recipe: Recipe
    judge: Judge
    watcher: Watcher
    best: float = -np.inf
    values: Mapping[str, float] = field(default_factory=dict)

    def epoch(self, report: Epoch) -> Decision:
        if not len(report.scores):
            return Decision(stop=self.watcher.epoch(report, {}))
        predictions = validation_predictions(self.ground, self.recipe, report)
        # With folds all of them answer together; one, or the official split, need not.
        folded = self.judge.validation.folds > 1
        self.values = (self.judge.known_values if folded else self.judge.values)(predictions)
        utility = self.judge.epoch_value(predictions)
        # For the rule `last` every epoch takes the place of the one before.
        keep = utility > self.best or isinstance(self.judge.validation.epoch, str)
        self.best = max(self.best, utility)
        return Decision(stop=self.watcher.epoch(report, self.values), keep=keep)

    def poll(self) -> str | None:
        return self.watcher.poll()


@dataclass(frozen=True, eq=False)
class Order:
    """One run that is wanted.

    Attributes:
        job: Resolved recipe and seeds.
        watcher: Follows the run and may end it.
        keep_weights: Store what trained; a stored run without weights is then made again.
        provenance: Study, trial and the like for recipe.json.
        judge: Judges its epochs in place of the judge of all; of the same epoch rule.
    """

    job: Job
    watcher: Watcher = field(default_factory=Unwatched)
    keep_weights: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)
    judge: Judge | None = None


def run(
    job: Job,
    session: Session,
    runs: Runs,
    judge: Judge,
    *,
    watcher: Watcher | None = None,
    keep_weights: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> StoredRun | Stopped:
    """Return the stored run of `job`, training it when there is none.

    Args:
        job: Resolved recipe and seeds.
        session: What the process keeps between runs.
        runs: Where runs are stored.
        judge: Objectives and epoch rule; not part of the key.
        watcher: Follows the run and may end it.
        keep_weights: Store what trained; a stored run without weights is then made again.
        provenance: Study, trial and the like for recipe.json.

    Raises:
        RunError: Non-finite loss or out of memory.
        DataError: Predictions that an objective cannot be computed from.
    """
    order = Order(job, watcher or Unwatched(), keep_weights, provenance or {})
    ((_, made),) = run_together([order], session, runs, judge)
    if isinstance(made, Exception):
        raise made
    return made


def run_together(
    orders: Sequence[Order], session: Session, runs: Runs, judge: Judge
) -> Iterator[tuple[int, StoredRun | Stopped | Exception]]:
    """Make several runs together; yield the number of an order with its end when it ends.

    A run that is stored already is not made. One that fails yields its exception, and the others
    go on. A run that was killed or stopped is gone on with by whoever asks for it next.

    Args:
        orders: What is wanted; of one kind: with weights kept, or without.
        session: What the process keeps between runs.
        runs: Where runs are stored.
        judge: Objectives and epoch rule; not part of the keys.
    """
    rule = judge.validation.epoch
    session.held = max(session.held, len(orders))
    waiting: list[int] = []
    jobs: list[Job] = []
    for i, order in enumerate(orders):
        key = order.job.recipe.key(order.job.seeds)
        stored = runs.get(key, weights=order.keep_weights)
        if stored is not None and (stored.weights_file is not None or not order.keep_weights):
            yield i, stored
            continue
        try:
            ground = session.ground(order.job.recipe)
            if (fault := post.wrong_task(order.job.recipe.mitigations, ground.task)) is not None:
                raise fault
        except Interrupted as left:
            yield i, Stopped(str(left.found), 0, {}, 0.0)
            continue
        except Exception as error:
            yield i, error
            continue
        observer = _Judged(ground, order.job.recipe, order.judge or judge, order.watcher)
        mark = [rule if isinstance(rule, str) else rule.to_json(), order.keep_weights]
        kept = None
        if stored is None:
            folder, mirror = runs.folder(key), runs.states(key)
            kept = Checkpoints(folder, key, mark, done=DONE, mirror=mirror)
        jobs.append(replace(order.job, observer=observer, checkpoints=kept))
        waiting.append(i)
    session.keeps_best = any(o.keep_weights for o in orders) and not isinstance(rule, str)
    for number, end in train_each(jobs, session):
        i = waiting[number]
        yield i, _ended(orders[i], jobs[number], end, session, runs, judge)


def _ended(
    order: Order,
    job: Job,
    end: RunResult | Exception,
    session: Session,
    runs: Runs,
    judge: Judge,
) -> StoredRun | Stopped | Exception:
    """Store a run that has finished, and clear up after one that will not be gone on with."""
    if isinstance(end, Exception):
        lost = isinstance(end, RunError) and end.reason == LOST
        if isinstance(end, RunError) and not lost and job.checkpoints is not None:
            job.checkpoints.discard()
        return end
    if end.stopped is not None:
        if end.judged and job.checkpoints is not None:
            job.checkpoints.discard()
        values = job.observer.values if isinstance(job.observer, _Judged) else {}
        asked = {name: end.costs[name] for name in (USED, PAID) if name in end.costs}
        return Stopped(end.stopped, len(end.epochs), values, end.costs["seconds"], asked)
    try:
        return _store(job, session, runs, judge, end, order.keep_weights, order.provenance)
    except Exception as error:
        return error


def validation_predictions(ground: Ground, recipe: Recipe, report: Epoch) -> Predictions:
    """Return the validation predictions of one epoch, post-processing cross-fitted.

    Raises:
        DataError: A score is not finite, or a post-processing cannot be fitted.
    """
    return post.cross_fitted(recipe.mitigations, raw_predictions(ground, recipe, report))


def raw_predictions(ground: Ground, recipe: Recipe, report: Epoch) -> Predictions:
    """Return what the model said on validation in one epoch, before any post-processing.

    Raises:
        DataError: A score is not finite.
    """
    if not np.isfinite(report.scores).all():
        raise DataError(
            "the model gave scores that are not finite", found=f"epoch {report.number}"
        )
    score = probabilities(report.scores, ground.task)
    made = made_for(ground, recipe)
    predictions = ground.pack.predictions(ground.val_rows(recipe), score)
    return predictions if made is None else replace(predictions, queries=float(made.queries))


def provenance_now() -> dict[str, Any]:
    """Return versions and host for recipe.json."""
    import torch

    from fairtune.training.ranks import current

    return {
        "fairtune": fairtune.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "threads": torch.get_num_threads(),
        "processes": current().world,
    }


def device_words(session: Session) -> str:
    """Return what runs jobs here, e.g. `NVIDIA H100 80GB HBM3`, or `cpu (x86_64)`."""
    import torch

    device = session.device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"


def _store(
    job: Job,
    session: Session,
    runs: Runs,
    judge: Judge,
    result: RunResult,
    keep_weights: bool,
    provenance: Mapping[str, Any],
) -> StoredRun:
    from safetensors.torch import save

    ground = session.ground(job.recipe)
    facts = text_facts(ground, job.recipe)
    card = recipe_card(
        job.recipe,
        job.seeds,
        task=ground.task,
        classes=ground.pack.table.classes,
        judged_by=judge.to_json(),
        provenance={
            **provenance_now(),
            "device": device_words(session),
            **({TEXTS: facts} if facts else {}),
            **provenance,
        },
    )
    kept = result.epochs[result.kept - 1]

    def fill(folder: Path) -> None:
        write_json(folder / "recipe.json", card)
        (folder / "mask.txt").write_text(mask_text(job.recipe, ground))
        write_table(folder / "epochs.parquet", epochs_frame(result))
        operating: dict[str, Any] = {"epoch": kept.number, "threshold": None}
        if len(kept.scores):
            predictions = raw_predictions(ground, job.recipe, kept)
            operating |= operating_point(judge, job.recipe, predictions)
            operating |= chosen_numbers(job.recipe, result)
            learned = not job.recipe.scored
            doubts = text_warnings(facts, job.recipe.usage, learned=learned)
            for why in doubts + wrong_way(job.recipe, predictions):
                session.warn(why)
            hashes = ground.patient_hashes(predictions.row)
            frame = prediction_frame(predictions, hashes, ground.pack.table.classes)
            write_table(folder / "val.parquet", frame)
            scores = io.BytesIO()
            np.save(scores, np.stack([e.scores for e in result.epochs]))
            (folder / "val_scores.npy").write_bytes(scores.getvalue())
        write_json(folder / "operating.json", operating)
        write_json(folder / "costs.json", result.costs)
        if (made := made_for(ground, job.recipe)) is not None:
            (folder / EDIT).write_bytes(to_bytes(made.edit))
            write_json(folder / EDITING, made.record)
        if job.recipe.usage.reads_prompts:
            table = ground.pack.table
            said = prompts_of(table, job.recipe).to_json(table.classes, table.task)
            write_json(folder / PROMPTS, said)
        if result.mitigations:
            write_json(folder / MITIGATIONS, result.mitigations)
        if keep_weights:
            (folder / WEIGHTS).write_bytes(save(result.weights, metadata={"key": card["key"]}))
        for name, content in ({} if job.checkpoints is None else job.checkpoints.logs()).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)

    return runs.write(card["key"], fill)


def chosen_numbers(recipe: Recipe, result: RunResult) -> dict[str, Any]:
    """Return the numbers of the head that validation chose, as operating.json has them."""
    names = recipe.usage.chooses if isinstance(recipe.usage, AtOnce) else ()
    found = {name: float(result.weights[f"head.{name}"]) for name in names}
    return {"chosen": found} if found else {}


def operating_point(judge: Judge, recipe: Recipe, predictions: Predictions) -> dict[str, Any]:
    """Return threshold and post-processing fitted on all of validation, as operating.json has it.

    Args:
        judge: Whose threshold rule.
        recipe: Whose post-processing.
        predictions: What the model said on validation.
    """
    steps = post.fit(recipe.mitigations, predictions)
    found = {"threshold": judge.threshold(post.apply(steps, predictions))}
    return found | ({"post": post.to_json(steps)} if steps else {})
