"""Which predictions the report speaks of, and the group tables made from them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from fairtune.evaluation.objectives import COMPOUNDS, Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import Threshold
from fairtune.evaluation.scoring import group_table
from fairtune.experiment.runs import StoredRun
from fairtune.report.trials import fairness_name
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
    """Return the study's attributes, and the crossing of the primary objective if it is one."""
    names = list(view.base.data.attributes)
    primary = view.judge.primary.attribute
    if primary is not None and primary in names:
        names.remove(primary)
    return names if primary is None else [primary, *names]


def metrics_of(view: Overview) -> list[str]:
    """Return what the outcome table shows: AUC, the primary's metric, the decisions."""
    primary = view.judge.primary
    own = [primary.head] if primary.metric in COMPOUNDS else [primary.metric, primary.head]
    decisions = ["tpr", "fpr"]
    return list(dict.fromkeys(["auc", *own, *decisions]))


def group_frame(view: Overview, models: Sequence[Scored], *, brief: bool = False) -> pd.DataFrame:
    """Return the group tables of several models under each other.

    The columns of `evaluation.table.group_table`, with `recipe`, `split` and `brief` before them
    and `shown` behind: whether the figure of a group may be printed. Intervals that need the
    bootstrap rest on 500 draws, noise floors on 200 permutations.

    Args:
        view: The study.
        models: Whose tables.
        brief: Only overall AUC and `trials.fairness_name`, without noise floors.
    """
    objective = Objective.parse(fairness_name(view))
    metrics = ["auc", objective.head] if brief else metrics_of(view)
    attributes = [str(objective.attribute)] if brief else attributes_of(view)
    frames = []
    for model in models:
        frame = group_table(
            model.predictions,
            list(dict.fromkeys(metrics)),
            attributes,
            minimum=view.judge.validation.minimum,
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
    minimum = view.judge.validation.minimum
    least = max(minimum.n, FEW)
    few = (frame["n"] < least) | (frame["positives"] < FEW)
    few |= frame["n"] - frame["positives"] < FEW
    frame["shown"] = frame["value"].notna() & ~(few & frame["group"].notna())
    return frame
