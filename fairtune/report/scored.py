"""Which predictions the report speaks of, and the group tables made from them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fairtune.evaluation.objectives import COMPOUNDS
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import GroupMinimum, Threshold
from fairtune.evaluation.scoring import group_table
from fairtune.experiment.judge import Judge
from fairtune.experiment.stored import StoredRun
from fairtune.report.words import FEW
from fairtune.study.outcome import Tested
from fairtune.study.overview import Candidate, Overview

REPLICATES = 500
PERMUTATIONS = 200
VALIDATION, TEST = "validation", "test"


@dataclass(frozen=True, eq=False)
class Scored:
    """One model on one split.

    Attributes:
        label: Name of its recipe.
        split: `validation` or `test`.
        predictions: What it said.
        threshold: Where its scores are cut: frozen on test, a rule (cross-fitted) on validation.
        run: The run.
    """

    label: str
    split: str
    predictions: Predictions
    threshold: Threshold
    run: StoredRun


def on_test(tested: Tested) -> Scored:
    """Return the run to deploy on the test split."""
    index = [run.key for run in tested.runs].index(tested.deploy)
    return Scored(
        tested.label,
        TEST,
        tested.predictions[index],
        tested.thresholds[index],
        tested.runs[index],
    )


def retrained(run: StoredRun, judge: Judge, label: str) -> Scored:
    """Return a retrained run on the test split, cut where its own validation froze it."""
    cut = run.operating["threshold"]
    threshold: Threshold = judge.validation.rule if cut is None else cut
    if isinstance(cut, list):
        threshold = tuple(cut)
    return Scored(label, TEST, run.test(), threshold, run)


def on_validation(view: Overview, candidate: Candidate) -> Scored | None:
    """Return the confirm run with the median objective, else the run of the search.

    None when the folder of the run is gone.
    """
    if candidate.runs:
        values = list(candidate.values)
        run: StoredRun | None = candidate.runs[values.index(statistics.median_low(values))]
    else:
        row = next(r for r in view.rows[candidate.phase] if r.number == candidate.number)
        run = view.stored(row)
    if run is None:
        return None
    judge = view.judge.on("confirm" if candidate.runs else "search")
    predictions = judge.seen(run.validation(judge.epoch_of(run)))
    return Scored(candidate.label, VALIDATION, predictions, view.judge.validation.rule, run)


def attributes_of(view: Overview) -> list[str]:
    """Return the attributes and crossings the objectives speak of, then the study's others."""
    asked = [o.attribute for o in view.judge.objectives if o.attribute is not None]
    return list(dict.fromkeys([*asked, *view.base.data.attributes]))


def metrics_of(view: Overview) -> list[str]:
    """Return what the group tables hold: AUC, the objectives' metrics, decisions, calibration."""
    own = [
        name
        for o in view.judge.objectives
        for name in ([o.head] if o.metric in COMPOUNDS else [o.metric, o.head])
    ]
    return list(dict.fromkeys(["auc", *own, "tpr", "fpr", "ece"]))


def group_frame(
    models: Sequence[Scored],
    metrics: Sequence[str],
    attributes: Sequence[str],
    minimum: GroupMinimum,
    *,
    brief: bool = False,
) -> pd.DataFrame:
    """Return the group tables of several models under each other.

    The columns of `evaluation.table.group_table`, with `recipe`, `split` and `brief` before them
    and `shown` behind: whether the figure of a group may be printed. Intervals that need the
    bootstrap rest on 500 draws, noise floors on 200 permutations.

    Args:
        models: Whose tables.
        metrics: Base metrics, reductions or compounds.
        attributes: Attributes or crossings.
        minimum: What a group must have.
        brief: Without noise floors.
    """
    frames = []
    for model in models:
        frame = group_table(
            model.predictions,
            list(dict.fromkeys(metrics)),
            list(dict.fromkeys(attributes)),
            minimum=minimum,
            threshold=model.threshold,
            floors=not brief,
            replicates=REPLICATES,
            permutations=PERMUTATIONS,
        )
        frame.insert(0, "recipe", model.label)
        frame.insert(1, "split", model.split)
        frame.insert(2, "brief", brief)
        frames.append(frame)
    if not frames:
        return pd.DataFrame()
    frame = pd.concat(frames, ignore_index=True)
    frame["shown"] = printable(frame, minimum)
    return frame


def printable(frame: pd.DataFrame, minimum: GroupMinimum) -> pd.Series[bool]:
    """Tell for each row of a group table whether its figure may be printed.

    Reductions may where they have a value; a group only with the study's minimum of rows and at
    least 5 of each class, whatever the metric needs.
    """
    least = max(minimum.n, FEW)
    few = (frame["n"] < least) | (frame["positives"] < FEW)
    few |= frame["n"] - frame["positives"] < FEW
    return frame["value"].notna() & ~(few & frame["group"].notna())
