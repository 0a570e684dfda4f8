"""Thresholds by group that make a rate of decisions equal: fairlearn's ThresholdOptimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from fairtune.config import Choice, Config
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.fields import Attribute

if TYPE_CHECKING:
    from fairtune.evaluation.predictions import Predictions
    from fairtune.mitigation.lots import Lots

CONSTRAINTS = (
    "equalized_odds",
    "true_positive_rate_parity",
    "false_positive_rate_parity",
    "demographic_parity",
)
OBJECTIVES = ("balanced_accuracy_score", "accuracy_score")


@MITIGATIONS.register("threshold_optimizer")
class ThresholdOptimizer(Config):
    """Cut each group's scores where a rate of decisions is equal and the objective best.

    The rule of fairlearn's `ThresholdOptimizer` (`flip=False`, `grid_size=1000`): of each group a
    point on the upper hull of its ROC curve, reached by drawing one of two thresholds, so that
    the constraint holds for all groups on the fitted rows and the objective is best; for
    `equalized_odds` a group above the common point is called positive with a fixed chance,
    whatever its score, in a share of the cases (Hardt et al., sec. 3.2).

    Deviations. Chance is drawn once for each patient, see `lots.Lots`, not at every call, so
    that a rule decides alike whenever and wherever it is applied. Groups with fewer than 5 fitted
    rows of either class, rows of unknown group, and groups that were not fitted, are cut at the
    one threshold of best objective on all rows pooled; they take no part in the constraint.

    Attributes:
        attribute: Whose groups; has to be known of every row that is scored.
        constraint: What is made equal, by fairlearn's names.
        objective: What is best under it.
    """

    paper: ClassVar[str] = (
        "Hardt, Price and Srebro, Equality of opportunity in supervised learning, NIPS 2016; "
        "fairlearn.postprocessing.ThresholdOptimizer"
    )
    formula: ClassVar[str] = (
        "s' = sigmoid(logit s - logit t), t drawn for the patient from the group's thresholds; "
        "positive from .5"
    )
    slots: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = False
    mixes: ClassVar[bool] = True
    clashes: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("binary", "multilabel")

    attribute: Attribute = None
    constraint: Annotated[
        Literal[
            "equalized_odds",
            "true_positive_rate_parity",
            "false_positive_rate_parity",
            "demographic_parity",
        ],
        Choice(CONSTRAINTS),
    ] = "equalized_odds"
    objective: Annotated[
        Literal["balanced_accuracy_score", "accuracy_score"], Choice(OBJECTIVES)
    ] = "balanced_accuracy_score"

    @property
    def idle(self) -> tuple[str, ...]:
        """Its fields always act."""
        return ()

    def fit(self, predictions: Predictions) -> Lots:
        """Return the thresholds of each group, of several targets for each by itself.

        Raises:
            DataError: The rows are in fewer than two groups.
        """
        from fairtune.mitigation.grouped import fitted_groups
        from fairtune.mitigation.lots import Lots, rule_of

        groups = fitted_groups(predictions, self.attribute, "threshold_optimizer")
        rules = tuple(
            rule_of(one.label, one.score, groups, self.constraint, self.objective)
            for one in predictions.per_target()
        )
        present = [name for i, name in enumerate(groups.names) if (groups.codes == i).any()]
        lacking = tuple(n for n in present if any(n not in rule.groups for rule in rules))
        return Lots(groups.name, rules, lacking)

    @classmethod
    def restore(cls, data: Mapping[str, Any]) -> Lots:
        """Return what `Lots.to_json` wrote."""
        from fairtune.mitigation.lots import Lots

        return Lots.from_json(data)
