"""What came out of a study on the test split: figures, differences, who paid, the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from fairtune.errors import DataError, FairtuneError, StudyError
from fairtune.evaluation.compare import Bounds, Difference, GroupChange, Verdict, holm, verdict
from fairtune.evaluation.constraints import Constraint, Harm, figures, harm_metric
from fairtune.evaluation.harm import changes
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.paired import difference
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import Threshold
from fairtune.evaluation.sampled import Sampled, Side, sample
from fairtune.evaluation.scoring import evaluate_objectives
from fairtune.evaluation.table import group_table
from fairtune.experiment.judge import Judge
from fairtune.experiment.stored import StoredRun
from fairtune.study.overview import Overview
from fairtune.study.rows import CONTROL, SEARCH, roots
from fairtune.study.select import corrected

FINAL_SET = "final_set"
"""Attribute of the final phase: keys by label of the set that was retrained last, and its pick."""

HARM = 0.02
"""Loss of a group that still counts as none, where the study states no other."""


def harmless(judge: Judge) -> float:
    """Return the loss of a group that counts as none: that of a study's `no_harm`, or 0.02."""
    limits = [c.bound for c in judge.constraints if c.relation == "no_harm"]
    return min(limits, default=HARM)


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

    @property
    def fixed(self) -> bool:
        """Whether nothing is fitted: one run says all that any seed would."""
        return self.runs[0].recipe.scored

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

    def known(self, view: Overview, objective: Objective) -> float | None:
        """Return `mean`, or None where the test rows cannot answer it: too few of a group."""
        try:
            return self.mean(view, objective)
        except DataError:
            return None

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
        rule: The selection rule that found the pick, or what the user gave instead.
    """

    view: Overview
    tested: Mapping[str, Tested]
    pick: str
    openings: int
    rule: str = "best"

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
        rule = str(stored.get("rule", view.settings["select"]))
        return cls(view, tested, stored["pick"], int(stored["openings"]), rule)

    @property
    def baselines(self) -> list[Tested]:
        """The reference recipes other than the pick."""
        return [t for t in self.tested.values() if t.is_baseline and t.label != self.pick]

    @property
    def control(self) -> Tested | None:
        """The best of the random masks, where the study ran them."""
        return self.tested.get(CONTROL)

    @property
    def compared(self) -> list[Objective]:
        """Objectives over which Holm's procedure runs: the primary one and those of groups."""
        judge = self.view.judge
        fair = [o for o in judge.objectives if o.attribute is not None]
        return list(dict.fromkeys([judge.primary, *fair]))

    @cached_property
    def sampled(self) -> dict[str, Sampled]:
        """What is compared, of every recipe, under the same resampled patients: drawn once.

        Raises:
            DataError: The recipes were not tested on the same rows.
        """
        sides = {n: Side(t.predictions, t.thresholds) for n, t in self.tested.items()}
        metric = self.harm_metric
        return sample(
            {self.pick: sides.pop(self.pick), **sides},
            self.compared,
            [(metric, attribute) for attribute in self.view.base.data.attributes],
            minimum=self.view.judge.validation.minimum,
        )

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """Difference of the primary objective to each baseline, better counted up."""
        return {b.label: self.gain(b.label, self.view.judge.primary) for b in self.baselines}

    def gain(self, label: str, objective: Objective, of: str | None = None) -> Difference:
        """Return the difference of the pick (or `of`) to `label`, better counted up.

        Raises:
            DataError: The test rows cannot answer it.
        """
        drawn, names = self.sampled, (of or self.pick, label)
        found = difference(drawn[names[0]], drawn[label], objective).gain(objective)
        seeds = zip(found.seeds, names, strict=True)
        return replace(found, seeds=tuple(n for n, name in seeds if not self.tested[name].fixed))

    @cached_property
    def bounds(self) -> dict[str, Bounds]:
        """Holm-adjusted bounds over attributes x baselines, by `OBJECTIVE vs BASELINE`."""
        family = {f"{self.view.judge.primary} vs {b}": d for b, d in self.differences.items()}
        for objective in self.compared[1:]:
            for base in self.baselines:
                try:
                    family[f"{objective} vs {base.label}"] = self.gain(base.label, objective)
                except DataError:
                    continue  # an attribute that the test split cannot answer compares nothing
        return holm(family)

    @property
    def harm_metric(self) -> str:
        """Base metric in which harm is counted: the primary objective's own, or `auc`."""
        return harm_metric(self.view.judge.primary)

    @property
    def delta(self) -> float:
        """Loss of a group that counts as none: that of the study's `no_harm`, or 0.02."""
        return harmless(self.view.judge)

    def harm(self, baseline: Tested, attribute: str) -> list[GroupChange]:
        """Return the change of every eligible group of `attribute` against `baseline`.

        Raises:
            DataError: No group is large enough.
        """
        drawn = self.sampled
        return changes(
            drawn[self.pick], drawn[baseline.label], attribute, self.harm_metric, self.delta
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
    def broken(self) -> list[str]:
        """Constraints that the pick does not meet on test, or that cannot be read there.

        Point values, means over the seeds; `no_harm` is counted group by group in `harms`.
        """
        limits = [c for c in self.view.judge.constraints if c.relation != "no_harm"]
        return [str(limit) for limit in limits if not self._meets(limit)]

    def _meets(self, limit: Constraint) -> bool:
        judge = self.view.judge
        names = [self.pick, *([] if limit.baseline is None else [limit.baseline])]
        if any(name not in self.tested for name in names):
            return False
        harm = Harm.of(judge.primary, self.view.base.data.attributes)
        found: dict[str, dict[str, float]] = {}
        for name in names:
            tested = self.tested[name]
            try:
                each = [
                    figures(p, [limit], harm, minimum=judge.validation.minimum, threshold=cut)
                    for p, cut in zip(tested.predictions, tested.thresholds)
                ]
            except DataError:
                return False
            found[name] = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
        return limit.violation(found[self.pick], found, None, harm) <= 0

    @cached_property
    def verdict(self) -> Verdict:
        """Whether the pick serves the primary objective better than the baselines.

        The bounds are those of the primary objective, adjusted for all that was compared.
        """
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
            for (label, _), found in self.harms.items()
            for change in found
            if change.harmed
        ]
        own = {f"{self.view.judge.primary} vs {label}" for label in self.differences}
        return verdict(
            {name: b for name, b in bounds.items() if name in own},
            harmed=harmed,
            delta=self.delta,
            broken=self.broken,
        )

    @cached_property
    def attribution(self) -> str | None:
        """Is it the search, or the learning rate? Its best against random masks, in words.

        None without a control, or where the test split cannot answer.
        """
        found = [t for t in self.tested.values() if not t.is_baseline and t is not self.control]
        if self.control is None or not found:
            return None
        try:
            d = self.gain(CONTROL, self.view.judge.primary, found[0].label)
        except FairtuneError:
            return None
        tried = len(roots(self.view.rows[CONTROL]))
        said = f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})"
        if d.low > 0:
            told = "the search found more than random masks with searched rates do"
        elif d.high < 0:
            told = "random masks with searched rates do better than what the search found"
        else:
            told = "what was found cannot be told from random masks with searched rates"
        return f"against the best of {tried} random masks {said}: {told}"

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
            "rule": self.rule,
            "openings": self.openings,
            "verdict": {"answer": self.verdict.answer, "why": self.verdict.why},
            **({} if self.attribution is None else {"control": self.attribution}),
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
