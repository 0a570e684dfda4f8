"""Randomised thresholds as a rule that decides alike wherever a patient is met.

A group's rule is a list of thresholds with chances that add up to 1. A patient's lot u, uniform in
[0, 1), says which of them is the patient's: thresholds stand in ascending order, so a low lot is a
low threshold. The lot is a keyed hash of what names the patient in every table (see
`post.first_rows`) and of the target: it is equal between epochs, runs, seeds, processes and
machines, independent between patients and targets, and no function of the image.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fairtune.evaluation.arrays import FloatArray, IntArray
from fairtune.evaluation.predictions import Attribute, Predictions

FEWEST = 5
"""Rows of either class that a group needs for thresholds of its own."""
CUT = 0.5
"""Where the shifted scores are cut."""
FAR = 16.0
"""Logit that stands for an infinite threshold; far beyond, digits of the score would be lost."""
KEY = b"fairtune.threshold_optimizer"

Piece = tuple[float, float]
"""Chance and threshold; a row is positive above the threshold."""


@dataclass(frozen=True)
class Rule:
    """The thresholds of one target.

    Attributes:
        pooled: That of all rows, for whom no group's rule is.
        groups: Pieces of each group, thresholds ascending, chances adding up to 1.
    """

    pooled: float
    groups: Mapping[str, tuple[Piece, ...]]

    def thresholds(self, place: IntArray, lot: FloatArray) -> FloatArray:
        """Return the `(n,)` threshold of every row.

        Args:
            place: `(n,)` position of its group in `groups`, -1 for none.
            lot: `(n,)` in [0, 1).
        """
        found = np.full(len(place), self.pooled)
        for i, pieces in enumerate(self.groups.values()):
            here = place == i
            edges = np.cumsum([chance for chance, _ in pieces])[:-1]
            cuts = np.array([cut for _, cut in pieces])
            found[here] = cuts[np.searchsorted(edges, lot[here], side="right")]
        return found


@dataclass(frozen=True)
class Lots:
    """The thresholds of a run.

    Attributes:
        attribute: Whose groups.
        rules: One for each target, or one alone.
        lacking: Groups of the fitted rows that are cut at the pooled threshold in some target.
    """

    attribute: str
    rules: tuple[Rule, ...]
    lacking: tuple[str, ...] = ()

    @property
    def cut(self) -> float | None:
        """Shifted scores are cut at .5 alone."""
        return CUT

    @property
    def named(self) -> tuple[str, ...]:
        """Groups with thresholds of their own."""
        return tuple(name for name in self.rules[0].groups if name not in self.lacking)

    def apply(self, predictions: Predictions) -> Predictions:
        """Return the table with shifted scores, to be cut at .5 alone."""
        from fairtune.mitigation.grouped import places

        columns = []
        for target, (one, rule) in enumerate(zip(predictions.per_target(), self.rules)):
            place = places(one, self.attribute, list(rule.groups))
            columns.append(shifted(one.score, rule.thresholds(place, lots(one, target))))
        score = np.stack(columns, axis=1) if predictions.task == "multilabel" else columns[0]
        return replace(predictions, score=score, cut=self.cut)

    def to_json(self) -> dict[str, Any]:
        """Return the pieces as lists; an infinite threshold as the word `inf` or `-inf`."""
        return {
            "attribute": self.attribute,
            "rules": [
                {
                    "pooled": _plain(rule.pooled),
                    "groups": {
                        name: [[chance, _plain(cut)] for chance, cut in pieces]
                        for name, pieces in rule.groups.items()
                    },
                }
                for rule in self.rules
            ],
            "lacking": list(self.lacking),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Lots:
        """Return what `to_json` wrote."""
        rules = tuple(
            Rule(
                float(rule["pooled"]),
                {
                    name: tuple((float(chance), float(cut)) for chance, cut in pieces)
                    for name, pieces in rule["groups"].items()
                },
            )
            for rule in data["rules"]
        )
        return cls(data["attribute"], rules, tuple(data["lacking"]))


def _plain(cut: float) -> float | str:
    return cut if math.isfinite(cut) else str(cut)


def lots(predictions: Predictions, target: int = 0) -> FloatArray:
    """Return the lot of every row's patient for a target, `(n,)` in [0, 1).

    The first 53 bits of BLAKE2b, keyed, of the target's number and the patient's first row.
    """
    from fairtune.mitigation.post import first_rows

    known, code = np.unique(first_rows(predictions), return_inverse=True)
    drawn = [
        int.from_bytes(
            hashlib.blake2b(f"{target}:{row}".encode(), digest_size=8, key=KEY).digest()
        )
        for row in known.tolist()
    ]
    drawn_lots: FloatArray = np.array([(bits >> 11) / 2**53 for bits in drawn])
    return np.asarray(drawn_lots[code])


def shifted(score: FloatArray, threshold: FloatArray) -> FloatArray:
    """Return `(n,)` scores in (0, 1) that are at least .5 where `score > threshold`, else below.

    sigmoid(logit s - logit t): the order of rows with equal thresholds stays, as far as floating
    point can tell them; an infinite threshold, or one beyond, has the logit 16 or -16.
    """
    from scipy import special

    logit = special.logit(np.clip(score, 1e-300, 1 - 2**-53))
    cut = np.clip(special.logit(np.clip(threshold, 0, 1)), -FAR, FAR)
    found = np.clip(special.expit(logit - cut), 1e-300, 1 - 2**-53)
    # Rounding, and what stands in for infinity, must not turn a decision.
    below = np.nextafter(CUT, 0)
    called = score > threshold
    return np.asarray(np.where(called, np.maximum(found, CUT), np.minimum(found, below)))


def rule_of(
    label: IntArray, score: FloatArray, groups: Attribute, constraint: str, objective: str
) -> Rule:
    """Return the rule of one target; groups with too few rows of a class have no own.

    Args:
        label: `(n,)` of 0/1.
        score: `(n,)` in [0, 1].
        groups: Groups of the rows.
        constraint: See `ThresholdOptimizer`.
        objective: See `ThresholdOptimizer`.
    """
    fit = []
    for code in range(groups.size):
        own = label[groups.codes == code]
        if min(int((own == 1).sum()), int((own == 0).sum())) >= FEWEST:
            fit.append(code)
    rows = np.isin(groups.codes, fit)
    found: dict[str, tuple[Piece, ...]] = {}
    if len(fit) > 1:
        pieces = _optimised(label[rows], score[rows], groups.codes[rows], constraint, objective)
        found = {groups.names[code]: pieces[code] for code in fit}
    return Rule(pooled_threshold(label, score, objective), found)


def pooled_threshold(label: IntArray, score: FloatArray, objective: str) -> float:
    """Return the threshold of best objective for all rows; the higher one of equals.

    Halfway between two scores; -inf where all rows are positive, .5 where all have one label.

    Args:
        label: `(n,)` of 0/1.
        score: `(n,)`.
        objective: `balanced_accuracy_score` or `accuracy_score`.
    """
    positives, negatives = int((label == 1).sum()), int((label == 0).sum())
    if not positives or not negatives:
        return CUT
    cuts = np.unique(score)[::-1]
    hits = np.searchsorted(np.sort(-score[label == 1]), -cuts, side="right")
    false = np.searchsorted(np.sort(-score[label == 0]), -cuts, side="right")
    # Whole numbers, so that equal objectives tie exactly.
    balanced = objective == "balanced_accuracy_score"
    worth = hits * negatives - false * positives if balanced else hits - false
    best = int(np.argmax(worth))
    if not balanced and worth[best] < 0:
        return math.inf  # calling no one positive is right more often
    if best + 1 == len(cuts):
        return -math.inf
    return float(min((cuts[best] + cuts[best + 1]) / 2, np.nextafter(cuts[best], -np.inf)))


def _scores() -> Any:
    """Return what fairlearn takes for a fitted model: its one feature is the score."""
    from sklearn.base import BaseEstimator

    class Scores(BaseEstimator):  # type: ignore[misc]
        def __sklearn_is_fitted__(self) -> bool:
            return True

        def fit(self, x: FloatArray, y: IntArray) -> Scores:
            return self

        def predict(self, x: FloatArray) -> FloatArray:
            return np.asarray(x)[:, 0]

    return Scores()


def _optimised(
    label: IntArray, score: FloatArray, codes: IntArray, constraint: str, objective: str
) -> dict[int, tuple[Piece, ...]]:
    """Return the pieces that fairlearn finds for each group."""
    from fairlearn.postprocessing import ThresholdOptimizer

    fitted = ThresholdOptimizer(
        estimator=_scores(),
        constraints=constraint,
        objective=objective,
        prefit=True,
        predict_method="predict",
    ).fit(score[:, None], label, sensitive_features=codes)
    found = fitted.interpolated_thresholder_.interpolation_dict
    return {int(code): _pieces(mixed) for code, mixed in found.items()}


def _pieces(mixed: Any) -> tuple[Piece, ...]:
    """Return fairlearn's mix as thresholds with chances.

    With chance `p_ignore` the score is not looked at and a row is positive with chance
    `prediction_constant`: that is the lowest or the highest threshold.
    """
    ignore = float(mixed.get("p_ignore", 0.0))
    constant = float(mixed.get("prediction_constant", 0.0))
    parts = [
        (ignore * constant, -math.inf),
        ((1 - ignore) * float(mixed.p0), float(mixed.operation0.threshold)),
        ((1 - ignore) * float(mixed.p1), float(mixed.operation1.threshold)),
        (ignore * (1 - constant), math.inf),
    ]
    chances: dict[float, float] = {}
    for chance, cut in parts:
        if chance > 0:
            chances[cut] = chances.get(cut, 0.0) + chance
    total = sum(chances.values())
    return tuple((chances[cut] / total, cut) for cut in sorted(chances))
