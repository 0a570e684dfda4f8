"""Numbers and objectives as a reader sees them. One place decides how they are printed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from fairtune.evaluation.metrics import metric as base_metric
from fairtune.evaluation.objectives import COMPOUNDS, Objective

NOTHING = "–"
TOO_SMALL = "n too small"
FEW = 5
"""Counts below this are not shown."""

METRICS = {
    "auc": "AUC",
    "auprc": "area under the precision-recall curve",
    "acc": "accuracy",
    "balanced_acc": "balanced accuracy",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
    "ece": "calibration error",
    "tpr": "sensitivity",
    "fpr": "false-positive rate",
    "tnr": "specificity",
    "fnr": "false-negative rate",
    "ppv": "positive predictive value",
    "npv": "negative predictive value",
    "selection_rate": "share called positive",
    "queries": "number of queries that making the edit of its images cost",
}
"""Base metrics in the words of a clinic."""

COMPOUND_WORDS = {
    "eo_diff": "the larger of the gaps in sensitivity and in false-positive rate",
    "eo_avg": "the mean of the gaps in sensitivity and in false-positive rate",
    "eopp_diff": "the gap in sensitivity",
    "dp_diff": "the gap in the share called positive",
}

_ALLOCATION = "allocation harm: what patients are given or denied because of the decision"
_SERVICE = "quality-of-service harm: the model works less well for some patients than for others"
HARMS = {
    "auc": f"{_SERVICE}. A low AUC in a group means that its patients with the finding are often "
    "ranked below patients without it",
    "tpr": f"{_ALLOCATION}. A low sensitivity means missed findings (under-diagnosis)",
    "fnr": f"{_ALLOCATION}. A high rate means missed findings (under-diagnosis)",
    "fpr": f"{_ALLOCATION}. A high rate means false alarms (over-diagnosis)",
    "tnr": f"{_ALLOCATION}. A low specificity means false alarms (over-diagnosis)",
    "selection_rate": f"{_ALLOCATION}. It does not look at whether the decisions are right",
    "eo_diff": f"{_ALLOCATION}, by missed findings or false alarms",
    "eo_avg": f"{_ALLOCATION}, by missed findings and false alarms",
    "eopp_diff": f"{_ALLOCATION}, by missed findings",
    "dp_diff": f"{_ALLOCATION}. It does not look at whether the decisions are right",
}
LABELS = (
    "Every metric inherits the quality of the labels, which differs by group: "
    "where one group's findings were recorded less reliably, no figure here can show it."
)


def number(value: float | None) -> str:
    """Return a figure with three decimals, or a dash for a missing one."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.3f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Return a difference with its sign."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:+.3f}".replace("-", "−")


def ends(low: float, high: float) -> str:
    """Return an interval as `[0.50, 0.71]`, or nothing when there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{low:.2f}, {high:.2f}]".replace("-", "−")


def with_ends(value: float, low: float, high: float, *, sign: bool = False) -> str:
    """Return `0.612 [0.50, 0.71]`."""
    text = signed(value) if sign else number(value)
    return f"{text} {ends(low, high)}".strip()


def duration(seconds: float) -> str:
    """Return a time span in the unit that suits it."""
    if not math.isfinite(seconds):
        return NOTHING
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (math.inf, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}"
    raise AssertionError("unreachable")


def grouped(value: float) -> str:
    """Return a whole number with its thousands apart."""
    return NOTHING if not math.isfinite(value) else f"{value:,.0f}"


def count_texts(counts: Sequence[int]) -> list[str]:
    """Return counts of the groups of one attribute, small ones suppressed.

    Counts of 1 to 4 read `<5`. Where the total would give them away (only one is hidden, or all
    hidden ones must be at an end of that range), the next larger count is given as the range
    that the total leaves.
    """
    texts = [f"{n:,}" if n == 0 or n >= FEW else f"<{FEW}" for n in counts]
    hidden = [n for n in counts if 0 < n < FEW]
    k, most = len(hidden), (FEW - 1) * len(hidden)
    shown = [i for i, n in enumerate(counts) if n >= FEW]
    if shown and hidden and (k == 1 or sum(hidden) in (k, most)):
        next_ = min(shown, key=lambda i: counts[i])
        total = counts[next_] + sum(hidden)
        texts[next_] = f"{total - most:,}–{total - k:,}"
    return texts


def metric_words(name: str) -> str:
    """Return a base metric or compound in words."""
    if name in COMPOUND_WORDS:
        return COMPOUND_WORDS[name]
    base, _, at = name.partition("@")
    words = METRICS.get(base, base.replace("_", " "))
    kind, _, level = at.partition("=")
    long = {"spec": "specificity", "sens": "sensitivity"}
    return f"{words} at {long[kind]} {level}" if kind in long else words


def objective_words(objective: Objective) -> str:
    """Return an objective in words."""
    words = metric_words(objective.metric)
    by = f" by {objective.attribute}"
    if objective.metric in COMPOUNDS:
        return words + by
    match objective.reduction:
        case "overall" if objective.is_cost:
            return f"the {words}"
        case "overall":
            return f"the {words} over all patients"
        case "worst":
            return f"the {words} of the worst-served group{by}"
        case "gap":
            return f"the gap in {words} between groups{by}"
        case _:
            return f"the equity-scaled {words}{by}"


def harm_words(objective: Objective) -> str:
    """Return which harm an objective speaks of."""
    name = objective.metric.partition("@")[0]
    if name in HARMS:
        return HARMS[name]
    if name in COMPOUNDS or base_metric(objective.metric).cut:
        return _ALLOCATION
    if name in ("ece", "brier", "nll", "cal_slope", "cal_intercept"):
        return f"{_SERVICE}. A poorly calibrated score over- or understates a group's risk"
    return _SERVICE


def sentence(text: str) -> str:
    """Return text with a capital at its start and a full stop at its end."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def prose(text: str) -> str:
    """Return a sentence with proper minus signs and without paths of this machine."""
    text = re.sub(r"(?<![\w:/])~?/(?:[^\s/'\"]+/)+([^\s/'\"]*)", r"\1", text)
    return re.sub(r"(?<=\s)-(?=\d)", "−", text)
