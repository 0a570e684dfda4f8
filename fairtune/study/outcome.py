"""What came out of a study on the test split: figures, differences, who paid, the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from fairtune.errors import FairtuneError, StudyError
from fairtune.evaluation.compare import (
    Bounds,
    Difference,
    GroupChange,
    Verdict,
    holm,
    no_harm,
    paired_difference,
    verdict,
)
from fairtune.evaluation.objectives import COMPOUNDS, Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import Threshold
from fairtune.evaluation.scoring import evaluate_objectives
from fairtune.evaluation.table import group_table
from fairtune.experiment.runs import StoredRun
from fairtune.study.overview import Overview
from fairtune.study.rows import SEARCH, roots
from fairtune.study.select import corrected

FINAL_SET = "final_set"
"""Attribute of the final phase: keys by label of the set that was retrained last, and its pick."""

HARM = 0.02
"""Loss of a group that still counts as none, where the study states no other."""


@dataclass(frozen=True, eq=False)
class Tested:
    """One retrained recipe on the test split.

    Attributes:
        label: Its name in tables.
        runs: One per fresh seed.
        deploy: Key of the run to deploy: the median of the validation objective.
        is_baseline: Whether it is a reference recipe.
    """

    label: str
    runs: tuple[StoredRun, ...]
    deploy: str
    is_baseline: bool

    @cached_property
    def predictions(self) -> tuple[Predictions, ...]:
        """Test predictions, one per seed."""
        return tuple(run.test() for run in self.runs)

    @cached_property
    def thresholds(self) -> tuple[Threshold, ...]:
        """Thresholds frozen on validation, one per seed."""
        return tuple(_threshold(run) for run in self.runs)

    def mean(self, view: Overview, objective: Objective) -> float:
        """Return the mean of `objective` over the seeds, on test."""
        values = [
            evaluate_objectives(
                p, [objective], minimum=view.judge.validation.minimum, threshold=cut
            )[str(objective)]
            for p, cut in zip(self.predictions, self.thresholds)
        ]
        return float(np.mean(values))

    def table(self, view: Overview, metrics: Sequence[str]) -> pd.DataFrame:
        """Return the group table of the run to deploy, with intervals and noise floors."""
        index = [run.key for run in self.runs].index(self.deploy)
        return group_table(
            self.predictions[index],
            metrics,
            list(view.base.data.attributes),
            minimum=view.judge.validation.minimum,
            threshold=self.thresholds[index],
        )


@dataclass(frozen=True, eq=False)
class Outcome:
    """The tested set of a study.

    Attributes:
        view: The study.
        tested: Recipes by label, the pick first.
        pick: Label of the picked recipe.
        openings: How often the test split had been opened, this time included.
    """

    view: Overview
    tested: Mapping[str, Tested]
    pick: str
    openings: int

    @classmethod
    def load(cls, view: Overview) -> Outcome | None:
        """Return the outcome of the last `finetune` of the study, or None when there is none.

        Raises:
            StudyError: Its runs are no longer in the results folder.
        """
        stored = view.attrs.get(FINAL_SET)
        if not isinstance(stored, dict):
            return None
        tested: dict[str, Tested] = {}
        for item in stored["entries"]:
            runs = [view.runs.get(key) for key in item["keys"]]
            present = tuple(run for run in runs if run is not None)
            if len(present) != len(runs):
                raise StudyError(
                    "final runs are missing from the results folder",
                    where=view.place.out,
                    found=f"{len(present)} of {len(runs)} runs of {item['label']}",
                    todo=f"fairtune finetune --study {view.place.name}",
                )
            tested[item["label"]] = Tested(
                item["label"], present, item["deploy"], item["is_baseline"]
            )
        return cls(view, tested, stored["pick"], int(stored["openings"]))

    @property
    def baselines(self) -> list[Tested]:
        """The reference recipes other than the pick."""
        return [t for t in self.tested.values() if t.is_baseline and t.label != self.pick]

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """Difference of the primary objective to each baseline, better counted up."""
        chosen, judge = self.tested[self.pick], self.view.judge
        return {
            base.label: paired_difference(
                chosen.predictions,
                base.predictions,
                judge.primary,
                minimum=judge.validation.minimum,
                thresholds_a=chosen.thresholds,
                thresholds_b=base.thresholds,
            ).gain(judge.primary)
            for base in self.baselines
        }

    @cached_property
    def bounds(self) -> dict[str, Bounds]:
        """Holm-adjusted bounds of the differences, by `OBJECTIVE vs BASELINE`."""
        name = str(self.view.judge.primary)
        return holm({f"{name} vs {label}": d for label, d in self.differences.items()})

    @property
    def harm_metric(self) -> str:
        """Base metric in which harm is counted: the primary objective's own, or `auc`."""
        metric = self.view.judge.primary.metric
        better = {"calibration", "neither"}
        part = self.view.judge.primary.parts[0]
        return "auc" if metric in COMPOUNDS or part.better in better else metric

    def harm(self, baseline: Tested, attribute: str) -> list[GroupChange]:
        """Return the change of every eligible group of `attribute` against `baseline`.

        Raises:
            DataError: No group is large enough.
        """
        chosen = self.tested[self.pick]
        return no_harm(
            chosen.predictions,
            baseline.predictions,
            attribute,
            self.harm_metric,
            HARM,
            minimum=self.view.judge.validation.minimum,
            thresholds_pick=chosen.thresholds,
            thresholds_baseline=baseline.thresholds,
        )

    @cached_property
    def harms(self) -> dict[tuple[str, str], list[GroupChange]]:
        """Changes by (baseline, attribute), where groups are large enough."""
        found: dict[tuple[str, str], list[GroupChange]] = {}
        for base in self.baselines:
            for attribute in self.view.base.data.attributes:
                try:
                    found[base.label, attribute] = self.harm(base, attribute)
                except FairtuneError:
                    continue
        return found

    @cached_property
    def verdict(self) -> Verdict:
        """Whether the pick serves the primary objective better than the baselines."""
        if self.tested[self.pick].is_baseline:
            return Verdict(
                "no",
                f"validation picks the baseline {self.pick}: no recipe of the search was "
                "confirmed to do better",
            )
        try:
            bounds = self.bounds
        except FairtuneError as error:
            return Verdict("cannot tell", f"the test split cannot answer: {error.what}")
        harmed = [
            f"{change.group} against {label}"
            for (label, _), changes in self.harms.items()
            for change in changes
            if change.harmed
        ]
        return verdict(bounds, harmed=harmed, delta=HARM)

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the set, for metrics.json."""
        judge = self.view.judge
        return {
            "study": self.view.place.name,
            "seed": self.view.seed,
            "dataset": self.view.base.data.dataset,
            "model": self.view.base.model.name,
            "image_size": self.view.base.model.image_size,
            "trials": len(roots(self.view.rows[SEARCH])),
            "objective": str(judge.primary),
            "validation": self._validation(),
            "pick": self.pick,
            "openings": self.openings,
            "verdict": {"answer": self.verdict.answer, "why": self.verdict.why},
            "recipes": {
                label: {
                    "runs": [run.key for run in tested.runs],
                    "deploy": tested.deploy,
                    "test": self._test_rows(tested),
                }
                for label, tested in self.tested.items()
            },
        }

    def _validation(self) -> dict[str, float | None]:
        found = corrected(self.view, self.view.candidates())
        if found is None:
            return {"naive": None, "corrected": None}
        return {"naive": found.naive, "corrected": found.corrected}

    def _test_rows(self, tested: Tested) -> list[dict[str, Any]]:
        frame = tested.table(self.view, ["auc", "tpr", "fpr", "ece"])
        columns = ["metric", "attribute", "group", "value", "low", "high", "n", "positives"]
        rows = frame[columns].to_dict("records")
        return [{str(k): _plain(v) for k, v in row.items()} for row in rows]


def _threshold(run: StoredRun) -> Threshold:
    cut = run.operating["threshold"]
    if cut is None:
        return run_rule(run)
    return tuple(cut) if isinstance(cut, list) else float(cut)


def run_rule(run: StoredRun) -> Threshold:
    """Return the threshold rule of a run that has no frozen threshold (multi-class)."""
    from fairtune.evaluation.rules import ThresholdRule

    return ThresholdRule.parse(run.card["judged_by"]["validation"]["threshold"])


def _plain(value: Any) -> Any:
    """Return a table cell as JSON: NaN and missing are null."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value
