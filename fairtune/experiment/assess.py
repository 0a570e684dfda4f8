"""What an edit does, beside its controls, on rows that neither it nor a head was fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from fairtune.data.gatekeep import TestPass
from fairtune.data.values import IntArray
from fairtune.editing.edit import EIGHT_BIT, Edit
from fairtune.editing.probe import Probe, table_of
from fairtune.errors import ConfigError, DataError
from fairtune.evaluation.estimates import estimate_set
from fairtune.evaluation.intervals import TAIL
from fairtune.evaluation.metrics import METRICS
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.paired import difference
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import GroupMinimum, Threshold, ThresholdRule
from fairtune.evaluation.sampled import Sampled, Side, sample
from fairtune.evaluation.table import group_table
from fairtune.evaluation.thresholds import fit_threshold
from fairtune.evaluation.values import BARE, Question
from fairtune.experiment.arms import Fitted, Fitting, fitted
from fairtune.experiment.assessed import (
    COMPARED,
    EDIT,
    FROZEN,
    NONE,
    RANDOM,
    RETRAINED,
    REWEIGHTED,
    TASK,
    Arm,
    Assessment,
    Change,
    Figure,
    Group,
)
from fairtune.experiment.gate import Gate
from fairtune.experiment.released import released
from fairtune.training.edits import Made, made_for
from fairtune.training.ground import Ground
from fairtune.training.recipe import Recipe
from fairtune.training.session import Session

AUC = Objective("auc")


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows that are told of.

    Attributes:
        rows: Rows of the pack.
        split: `val` or `test`.
        openings: How often test had been opened.
        test_pass: Pass to them, of test rows.
    """

    rows: IntArray
    split: str
    openings: int = 0
    test_pass: TestPass | None = None


def assess(
    recipe: Recipe,
    session: Session,
    *,
    attribute: str | None = None,
    split: Literal["val", "test"] = "val",
    gate: Gate | None = None,
    command: str = "",
    minimum: GroupMinimum | None = None,
    rule: ThresholdRule | None = None,
) -> Assessment:
    """Return what the edit of a recipe does, beside controls, on validation or on test rows.

    Arms: no edit, the edit, random noise of its norm, a group-reweighted task head without edit,
    a task head that is stopped early without edit. Of each: the AUC of a head that reads the
    attribute, fitted on unedited training embeddings (frozen) and on the arm's (re-trained),
    and the figures of a task head that is solved as that of a recipe with an empty mask. All heads
    are fitted on training rows alone. The threshold of decisions is cross-fitted on validation
    rows; on test rows it is that of validation. Figures "as published" are decided at 0.5.

    The test split is opened once for all arms, when everything is fitted.

    Args:
        recipe: Resolved; its edit is made where nobody has yet.
        session: What the process keeps.
        attribute: Whose groups; None for the attribute that the edit is made to hide.
        split: Which rows are told of.
        gate: The test gate, for `test`.
        command: The user's command, for the ledger of openings.
        minimum: What a group must have.
        rule: Threshold rule; Youden when None.

    Raises:
        ConfigError: No edit or no attribute to assess, or test rows without a gate.
        DataError: The attribute has one value among the training rows or those told of.
        Interrupted: The session's `poll` had a reason to leave.
    """
    ground = session.ground(recipe)
    made = made_for(ground, recipe)
    if made is None:
        raise ConfigError("there is no edit to assess", where="recipe.edit", found="none")
    name = _attribute(recipe, made.edit, attribute)
    fitting = Fitting.of(ground, recipe, name)
    frozen, arms = fitted(fitting, made.edit)
    minimum, rule = minimum or GroupMinimum(), rule or ThresholdRule()
    val = ground.val_rows(recipe)
    told = Rows(val, "val")
    cuts: Mapping[str, Threshold] = {arm.name: rule for arm in arms}
    if split == "test":
        cuts = {arm.name: fit_threshold(arm.task(val), rule) for arm in arms}
        told = _opened(ground, recipe, gate, command)
    reading = _Reading(ground, told, name, frozen, arms, cuts, minimum)
    return _told(reading, recipe, made, fitting)


def _attribute(recipe: Recipe, edit: Edit, asked: str | None) -> str:
    said = asked or recipe.rule.attribute or edit.about.get("attribute")
    if not isinstance(said, str):
        raise ConfigError(
            "nothing says whose groups the edit is to hide",
            where="--attribute",
            todo="name an attribute of the recipe, or a crossing A*B",
        )
    return said


def _opened(ground: Ground, recipe: Recipe, gate: Gate | None, command: str) -> Rows:
    if gate is None:
        raise ConfigError("test rows are read through a gate alone", where="--split", found="test")
    split = ground.pack.table.split_hash
    test_pass = gate.open(split, [recipe.identity()], command=command)
    rows = ground.pack.rows("test", test_pass=test_pass)
    return Rows(rows, "test", len(gate.openings(split)), test_pass)


@dataclass(frozen=True, eq=False)
class _Reading:
    """All arms on the rows that are told of.

    Attributes:
        ground: Data and model.
        told: The rows.
        attribute: Attribute or crossing.
        frozen: The head fitted on unedited images.
        arms: Fitted arms.
        cuts: Threshold of each.
        minimum: What a group must have.
    """

    ground: Ground
    told: Rows
    attribute: str
    frozen: Probe
    arms: Sequence[Fitted]
    cuts: Mapping[str, Threshold]
    minimum: GroupMinimum

    def task(self, arm: Fitted) -> Predictions:
        """Return what an arm says of the label."""
        return arm.task(self.told.rows, self.told.test_pass)

    def groups(self, probe: Probe, arm: Fitted) -> Predictions:
        """Return what `probe` says of the group from what an arm sees; the group is the label."""
        rows, test_pass = self.told.rows, self.told.test_pass
        named = self.ground.pack.attribute(rows, self.attribute, test_pass=test_pass)
        seen, patient = arm.sight(rows, test_pass), self.ground.pack.patient_codes[rows]
        return table_of(probe, seen, named.codes, named.names, patient)

    def arm(self, arm: Fitted) -> Arm:
        """Return the figures of an arm."""
        task = self.task(arm)
        frame = group_table(
            task,
            ["auc", "tpr", "fpr", "eo_diff"] if task.task != "multiclass" else ["auc"],
            [self.attribute],
            minimum=self.minimum,
            threshold=self.cuts[arm.name],
            floors=False,
        )
        frame = frame[frame["target"].isna()]
        figures = {
            FROZEN: auc_of(self.groups(self.frozen, arm)),
            RETRAINED: auc_of(self.groups(arm.retrained, arm)),
            **{name: _figure(frame, name) for name in TASK},
        }
        edit = arm.sight.edit
        return Arm(
            arm.name,
            arm.words,
            figures,
            _groups(frame, self.attribute),
            as_published(task, self.attribute),
            {} if edit is None else edit.norms(),
        )

    def changes(self) -> list[Change]:
        """Return the edit minus each control whose figure can differ, on the same patients."""
        wanted = [AUC, *(Objective.parse(f"{f}@{self.attribute}") for f in COMPARED[2:])]
        task = sample(
            {arm.name: Side([self.task(arm)], self.cuts[arm.name]) for arm in self.arms},
            wanted,
            minimum=self.minimum,
        )
        read = sample(
            {arm.name: Side([self.groups(arm.retrained, arm)], 0.5) for arm in self.arms},
            [AUC],
            minimum=BARE,
        )
        found = []
        for control in (NONE, RANDOM, REWEIGHTED):
            found.append(Change(RETRAINED, control, _change(read, control, AUC)))
            for name, objective in zip(COMPARED[1:], wanted):
                found.append(Change(name, control, _change(task, control, objective)))
        return found


def _change(drawn: Mapping[str, Sampled], control: str, objective: Objective) -> Figure:
    try:
        found = difference(drawn[EDIT], drawn[control], objective)
    except DataError:
        return Figure()
    return Figure(found.value, found.low, found.high)


def auc_of(table: Predictions) -> Figure:
    """Return the AUC of a table with its interval."""
    whole = np.arange(len(table))
    found = estimate_set(Question(table, None, BARE), METRICS["auc"], whole)
    return Figure(found.value, *found.bound(TAIL))


def as_published(task: Predictions, attribute: str) -> dict[str, float]:
    """Return the figures of other tools for a binary task, decided at 0.5.

    Groups without a row are left out; of one without rows of either class there are no recalls,
    and no figures.
    """
    if task.task != "binary":
        return {}
    named, called = task.attribute(attribute), task.score >= 0.5
    recalls = {}
    for code, name in enumerate(named.names):
        mine = named.codes == code
        negative, positive = mine & (task.label == 0), mine & (task.label == 1)
        if not mine.any():
            continue
        if not (negative.any() and positive.any()):
            return {}
        found = 100 * (~called[negative]).mean(), 100 * called[positive].mean()
        recalls[name] = (float(found[0]), float(found[1]))
    return released(recalls)


def _figure(frame: pd.DataFrame, name: str) -> Figure:
    rows = frame[(frame["metric"] == name) & frame["group"].isna()]
    if not len(rows):
        return Figure()
    row = rows.iloc[0]
    return Figure(float(row["value"]), float(row["low"]), float(row["high"]))


def _groups(frame: pd.DataFrame, attribute: str) -> list[Group]:
    mine = frame[frame["group"].notna()]
    found = []
    for name in dict.fromkeys(mine["group"]):
        rows = mine[mine["group"] == name]
        figures = {
            str(r["metric"]): Figure(float(r["value"]), float(r["low"]), float(r["high"]))
            for r in rows.to_dict("records")
        }
        one = rows.iloc[0]
        counts = int(one["n"]), int(one["patients"]), int(one["positives"])
        found.append(Group(str(name), *counts, figures))
    return found


def _told(reading: _Reading, recipe: Recipe, made: Made, fitting: Fitting) -> Assessment:
    ground, told = reading.ground, reading.told
    arms = [reading.arm(arm) for arm in reading.arms]
    changes = reading.changes()
    sights = {id(arm.sight): arm.sight for arm in reading.arms}.values()
    asked = sum(sight.batches for sight in sights)
    return Assessment(
        attribute=reading.attribute,
        groups=reading.frozen.names,
        split=told.split,
        rows=len(told.rows),
        patients=len(np.unique(ground.pack.patient_codes[told.rows])),
        fitted=len(fitting.rows),
        openings=told.openings,
        arms=arms,
        changes=changes,
        picture=(made.edit.full.numpy() * EIGHT_BIT).astype(np.float32),
        trace=made.record["trace"],
        queries={**made.record["queries"], "assessing": asked},
        about=made.edit.about,
        recipe=recipe.to_json(),
        notes=tuple(made.record["notes"]),
    )
