"""What a study optimises: one grammar, one parser, one printer.

    objective = [REDUCTION_]METRIC[_gap][@spec=x | @sens=x][@ATTR[*ATTR]...][:min|:max]

`auc`, `worst_auc@age`, `auc_gap@age*sex`, `es_auc@race`, `worst_tpr@spec=0.9@sex`, `eo_diff@age`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fairtune.errors import ConfigError, did_you_mean
from fairtune.evaluation.metrics import AT_FORMS, METRICS, NUMBER, Metric
from fairtune.evaluation.metrics import metric as base_metric

Reduction = Literal["overall", "worst", "gap", "es", "es_pop", "es_sample"]
Direction = Literal["maximize", "minimize"]

COMPOUNDS: Mapping[str, tuple[str, ...]] = {
    "eo_diff": ("tpr", "fpr"),
    "eo_avg": ("tpr", "fpr"),
    "eopp_diff": ("tpr",),
    "dp_diff": ("selection_rate",),
}
"""Named gaps over the gaps of their parts: the largest, and for `eo_avg` the mean."""

PREFIXES: tuple[tuple[str, Reduction], ...] = (
    ("worst_", "worst"),
    ("es_pop_", "es_pop"),
    ("es_sample_", "es_sample"),
    ("es_", "es"),
)
GAP = "_gap"
ATTRIBUTE = re.compile(r"[^\s@*:<>=\[\]]+(?:\*[^\s@*:<>=\[\]]+)*")
WORDS: Mapping[str, Direction] = {"min": "minimize", "max": "maximize"}
OBJECTIVE = re.compile(
    rf"(?P<head>[A-Za-z_]\w*)(?P<at>@(?:spec|sens)={NUMBER})?"
    r"(?:@(?P<attribute>[^:]*))?(?::(?P<word>.*))?"
)
FORMS = "worst_M, M_gap, es_M, es_pop_M, es_sample_M"
FORM = "METRIC[@ATTR[*ATTR]][:min|:max]"


@dataclass(frozen=True)
class Objective:
    """One number to be made large or small.

    Args:
        metric: A base metric or a compound (`eo_diff`, `eo_avg`, `eopp_diff`, `dp_diff`).
        reduction: How group values become one; `overall` takes no attribute.
        attribute: Name of an attribute or a crossing; None for `overall`.
        wanted: The direction, written only for metrics that have none of their own.
    """

    metric: str
    reduction: Reduction = "overall"
    attribute: str | None = None
    wanted: Direction | None = None

    @classmethod
    def parse(cls, text: str, *, directed: bool = True) -> Objective:
        """Read `METRIC[@ATTR[*ATTR]][:min|:max]`.

        Args:
            text: The objective.
            directed: Whether a metric without a better side (`cal_slope`) must name a direction;
                constraints need none.

        Raises:
            ConfigError: Unknown metric, a reduction without attribute or the reverse, a direction
                that contradicts the metric, or text of another form.
        """
        match = OBJECTIVE.fullmatch(text.strip())
        if match is None:
            raise ConfigError("not an objective", found=text, allowed=FORM)
        name, reduction = parse_head(match["head"] + (match["at"] or ""))
        attribute = match["attribute"]
        if attribute is not None:
            attribute = re.sub(r"\s*\*\s*", "*", attribute.strip())
            if not ATTRIBUTE.fullmatch(attribute):
                raise ConfigError("not an attribute", where=text, found=attribute, allowed=FORM)
        _check_attribute(text, match["head"], reduction, attribute)
        objective = cls(name, reduction, attribute)
        return objective._directed(text, match["word"], directed)

    def _directed(self, text: str, word: str | None, directed: bool) -> Objective:
        own = self._own_direction()
        if word is not None and word not in WORDS:
            raise ConfigError("not a direction", where=text, found=word, allowed=tuple(WORDS))
        if own is None and word is not None:
            return Objective(self.metric, self.reduction, self.attribute, WORDS[word])
        if own is None and directed:
            raise ConfigError(
                f"{self.metric} has no better side",
                where=text,
                todo=f"write {text}:min or {text}:max, or use {self.metric}_gap or a constraint",
            )
        if word is not None and WORDS[word] != own:
            raise ConfigError(
                f"{self.head} is to be {own}d", where=text, found=f":{word}", todo="leave it out"
            )
        return self

    def _own_direction(self) -> Direction | None:
        if self.is_disparity:
            return "minimize"
        better = base_metric(self.metric).better
        return {"higher": "maximize", "lower": "minimize", "neither": None}[better]

    @property
    def head(self) -> str:
        """The part before the attribute: `worst_auc`, `tpr_gap@spec=0.9`, `eo_diff`."""
        if self.metric in COMPOUNDS:
            return self.metric
        name, at, point = self.metric.partition("@")
        if self.reduction == "gap":
            name += GAP
        elif self.reduction != "overall":
            name = f"{self.reduction}_{name}"
        return name + at + point

    @property
    def direction(self) -> Direction:
        """`maximize` or `minimize`.

        Raises:
            ConfigError: A metric without a better side whose direction was not written.
        """
        direction = self._own_direction() or self.wanted
        if direction is None:
            raise ConfigError(f"{self.metric} has no better side", where=str(self))
        return direction

    @property
    def is_disparity(self) -> bool:
        """Whether it compares groups with each other, so that a constant model scores 0."""
        return self.reduction == "gap"

    @property
    def is_cost(self) -> bool:
        """Whether it is what a model cost, and says nothing of how well it does."""
        return any(part.cost for part in self.parts)

    @property
    def needs_threshold(self) -> bool:
        """Whether it reads decisions, made at the threshold, instead of scores."""
        return any(part.cut for part in self.parts)

    @property
    def parts(self) -> tuple[Metric, ...]:
        """The base metrics it is computed from."""
        return tuple(base_metric(name) for name in COMPOUNDS.get(self.metric, (self.metric,)))

    @property
    def sign(self) -> int:
        """1 when larger is better, -1 when smaller is."""
        return 1 if self.direction == "maximize" else -1

    def __str__(self) -> str:
        at = "" if self.attribute is None else f"@{self.attribute}"
        word = {None: "", "minimize": ":min", "maximize": ":max"}[self.wanted]
        return self.head + at + word


def parse_head(head: str) -> tuple[str, Reduction]:
    """Split `worst_auc` or `tpr_gap@spec=0.9` into the metric and its reduction.

    Raises:
        ConfigError: No such metric, or a reduction that the metric does not have.
    """
    if head in COMPOUNDS:
        return head, "gap"
    name, at, point = head.partition("@")
    reduction: Reduction = "overall"
    if name not in METRICS:
        for prefix, meaning in PREFIXES:
            if name.startswith(prefix):
                name, reduction = name.removeprefix(prefix), meaning
                break
        else:
            if name.endswith(GAP):
                name, reduction = name.removesuffix(GAP), "gap"
    if name not in METRICS:
        known = known_heads()
        raise ConfigError(
            "unknown metric",
            found=head,
            allowed=(
                *METRICS,
                *COMPOUNDS,
                *AT_FORMS,
                FORMS,
            ),
            todo=did_you_mean(_usual(head), known),
        )
    found = base_metric(name + at + point)
    if found.cost and reduction != "overall":
        raise ConfigError(
            f"{name} is a cost of the model and the same for every group", found=head, allowed=name
        )
    if reduction == "worst" and found.better == "neither":
        raise ConfigError(f"{name} has no worst value", found=head, allowed=f"{name}{GAP}")
    if reduction.startswith("es") and found.better != "higher":
        raise ConfigError(
            "equity scaling divides a metric, so it needs one where higher is better", found=head
        )
    return found.name, reduction


def check_metric(head: str) -> None:
    """Refuse what a table of predictions cannot tell.

    Raises:
        ConfigError: No such metric, or a cost.
    """
    name, _ = parse_head(head)
    if name not in COMPOUNDS and base_metric(name).cost:
        raise ConfigError(
            f"{name} is what a model cost, and no table of predictions knows it",
            found=head,
            todo="it is an objective or a constraint of a study",
        )


def known_heads() -> tuple[str, ...]:
    """Return every spelling without an operating point, for messages and documentation."""
    heads = list(METRICS)
    for name, found in METRICS.items():
        if found.cost:
            continue
        heads.append(name + GAP)
        if found.better != "neither":
            heads.append(f"worst_{name}")
        if found.better == "higher":
            heads += [f"{kind}_{name}" for kind in ("es", "es_pop", "es_sample")]
    return (*heads, *COMPOUNDS)


def _usual(head: str) -> str:
    """Turn habits of other tools into the spelling used here, so that the hint can find it."""
    for habit in ("gap_", "diff_"):
        if head.startswith(habit):
            return head.removeprefix(habit) + GAP
    for habit in ("min_", "max_"):
        if head.startswith(habit):
            return "worst_" + head.removeprefix(habit)
    return head.removesuffix("_diff") + GAP if head.endswith("_diff") else head


def _check_attribute(text: str, head: str, reduction: Reduction, attribute: str | None) -> None:
    if reduction == "overall" and attribute is not None and base_metric(head).cost:
        raise ConfigError(f"{head} is the same for every group", where=text, todo=f"write {head}")
    if reduction == "overall" and attribute is not None:
        raise ConfigError(
            f"{head} is an overall figure and takes no attribute",
            where=text,
            todo=f"write {head}, worst_{head}@{attribute} or {head}_gap@{attribute}",
        )
    if reduction != "overall" and attribute is None:
        raise ConfigError(
            f"{head} compares groups and needs an attribute", where=text, todo=f"{text}@ATTR"
        )
