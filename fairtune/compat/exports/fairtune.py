"""The results CSV of FairTune (Raman1121/FairTune, `finetune_with_mask.py`)."""

from __future__ import annotations

import csv
import io
from typing import ClassVar

from fairtune.config import Config
from fairtune.errors import FairtuneError
from fairtune.evaluation.objectives import Objective
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.rules import GroupMinimum, Threshold
from fairtune.evaluation.scoring import evaluate_objectives, group_values
from fairtune.study.exports import EXPORTS
from fairtune.study.outcome import Outcome

COLUMNS = (
    "Tuning Method",
    "Train Percent",
    "LR",
    "Test AUC Overall",
    "Test AUC (Best)",
    "Test AUC (Worst)",
    "Test AUC Difference",
    "EquiOdd_diff",
    "EquiOdd_ratio",
    "DPD",
    "DPR",
    "Mask Path",
)


@EXPORTS.register("fairtune")
class FairTuneCsv(Config):
    """`results.csv`: one row per retrained run in FairTune's columns.

    `Test AUC (Best)` and `(Worst)` are over the groups of the primary objective's attribute.
    Values are pooled over the split, where FairTune averages over batches.
    """

    file: ClassVar[str] = "results.csv"

    def text(self, outcome: Outcome) -> str:
        """Return the CSV."""
        view = outcome.view
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
        writer.writeheader()
        attribute = view.judge.primary.attribute or view.base.data.attributes[0]
        for tested in outcome.tested.values():
            for run, predictions, cut in zip(tested.runs, tested.predictions, tested.thresholds):
                writer.writerow(
                    result_row(
                        tested.label,
                        predictions,
                        attribute,
                        minimum=view.judge.validation.minimum,
                        threshold=cut,
                        share=run.costs["trainable_share"],
                        lr=run.recipe.optim.lr,
                        mask_path=f"{run.key}/mask.txt",
                    )
                )
        return buffer.getvalue()


def result_row(
    label: str,
    predictions: Predictions,
    attribute: str,
    *,
    minimum: GroupMinimum,
    threshold: Threshold,
    share: float,
    lr: float | None,
    mask_path: str,
) -> dict[str, object]:
    """Return one row; what cannot be computed for want of eligible groups is an empty cell.

    Args:
        label: Goes into `Tuning Method`.
        predictions: Test predictions.
        attribute: Attribute of the group columns.
        minimum: What a group must have.
        threshold: Frozen threshold.
        share: Trainable share without the head, in [0, 1]; written in percent.
        lr: Learning rate, empty for a solved readout.
        mask_path: Where the mask stands.
    """

    def value(text: str) -> float | str:
        try:
            found = evaluate_objectives(
                predictions, [Objective.parse(text)], minimum=minimum, threshold=threshold
            )
        except FairtuneError:
            return ""
        return next(iter(found.values()))

    def values(metric: str) -> list[float]:
        try:
            groups = group_values(
                predictions, metric, attribute, minimum=minimum, threshold=threshold
            )
        except FairtuneError:
            return []
        return list(groups.values())

    auc = values("auc")
    rates = [values(name) for name in ("tpr", "fpr")]
    return {
        "Tuning Method": label,
        "Train Percent": 100 * share,
        "LR": "" if lr is None else lr,
        "Test AUC Overall": value("auc"),
        "Test AUC (Best)": max(auc) if auc else "",
        "Test AUC (Worst)": min(auc) if auc else "",
        "Test AUC Difference": value(f"auc_gap@{attribute}"),
        "EquiOdd_diff": value(f"eo_diff@{attribute}"),
        "EquiOdd_ratio": min((_ratio(r) for r in rates), default="") if all(rates) else "",
        "DPD": value(f"dp_diff@{attribute}"),
        "DPR": _ratio(values("selection_rate")) if values("selection_rate") else "",
        "Mask Path": mask_path,
    }


def _ratio(rates: list[float]) -> float:
    """Return smallest / largest rate; 1 when all are 0 and none differs (fairlearn: NaN)."""
    return 1.0 if max(rates) == 0 else min(rates) / max(rates)
