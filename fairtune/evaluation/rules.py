"""Two rules that a study fixes once: which groups count, and where scores are cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np

from fairtune.errors import ConfigError, DataError, FairtuneError, did_you_mean, raise_all
from fairtune.evaluation.arrays import FloatArray, IntArray

RuleKind = Literal["youden", "prevalence", "fixed", "sensitivity", "specificity"]
PLAIN = ("youden", "prevalence")
WITH_LEVEL = ("fixed", "sensitivity", "specificity")


@dataclass(frozen=True)
class GroupMinimum:
    """What a group must have before its figure is used.

    Args:
        n: Rows.
        positives: Rows of class 1, asked for by metrics that need positives (AUC, TPR, ...).
        negatives: Rows of class 0, asked for by metrics that need negatives (AUC, FPR, ...).
    """

    n: int = 20
    positives: int = 10
    negatives: int = 10

    def __post_init__(self) -> None:
        problems: list[FairtuneError] = []
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                problems.append(
                    ConfigError(
                        "must be a whole number, at least 1",
                        where=f"min_group.{name}",
                        found=value,
                    )
                )
        raise_all("min_group", problems)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> GroupMinimum:
        """Read `{n: 20, positives: 10, negatives: 10}`; what is absent keeps its default.

        Raises:
            ConfigError: Unknown keys or values below 1.
        """
        known = ("n", "positives", "negatives")
        raise_all(
            "min_group",
            [
                ConfigError(
                    "unknown key",
                    where="min_group",
                    found=key,
                    allowed=known,
                    todo=did_you_mean(key, known),
                )
                for key in given
                if key not in known
            ],
        )
        return cls(**given)

    @classmethod
    def parse(cls, text: str) -> GroupMinimum:
        """Read the form of the command line, `n=20,positives=10,negatives=10`.

        Raises:
            ConfigError: Text of another form.
        """
        given: dict[str, int] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            key, _, value = part.partition("=")
            try:
                given[key.strip()] = int(value)
            except ValueError:
                raise ConfigError(
                    "expected KEY=WHOLE NUMBER", where="min_group", found=part, allowed=str(cls())
                ) from None
        return cls.from_dict(given)

    def to_dict(self) -> dict[str, int]:
        """Return the three numbers by name."""
        return asdict(self)

    def __str__(self) -> str:
        return f"n={self.n},positives={self.positives},negatives={self.negatives}"


@dataclass(frozen=True)
class ThresholdRule:
    """How the score is found at and above which a row is called positive.

    Args:
        kind: `youden` maximises TPR - FPR; `prevalence` calls as many positive as there are;
            `fixed` is `level` itself; `sensitivity` is the highest threshold with TPR >= `level`;
            `specificity` the lowest threshold with TNR >= `level`.
        level: The number that the last three need; None for the others.
    """

    kind: RuleKind = "youden"
    level: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in PLAIN + WITH_LEVEL:
            raise ConfigError(
                "unknown threshold rule",
                where="threshold",
                found=self.kind,
                allowed=PLAIN + WITH_LEVEL,
                todo=did_you_mean(self.kind, PLAIN + WITH_LEVEL),
            )
        if self.kind in PLAIN and self.level is not None:
            raise ConfigError(f"{self.kind} takes no number", where="threshold", found=self.level)
        if self.kind in WITH_LEVEL:
            shares = self.kind != "fixed"
            level = self.level
            if level is None or not np.isfinite(level) or (shares and not 0 < level <= 1):
                raise ConfigError(
                    f"{self.kind} needs a number",
                    where="threshold",
                    found=level,
                    allowed="above 0, at most 1" if shares else "any finite number",
                )

    @classmethod
    def parse(cls, given: str | float | Mapping[str, Any] | ThresholdRule) -> ThresholdRule:
        """Read `youden`, `fixed=0.5`, `{fixed: 0.5}`, a rule, or a number (which is `fixed`).

        Raises:
            ConfigError: Anything else.
        """
        if isinstance(given, ThresholdRule):
            return given
        if isinstance(given, Mapping):
            if len(given) != 1:
                raise ConfigError(
                    "expected one rule", where="threshold", found=dict(given), allowed=ALLOWED
                )
            ((kind, level),) = given.items()
        elif isinstance(given, str):
            kind, equals, level = given.strip().partition("=")
            level = level if equals else None
        else:
            kind, level = "fixed", given
        try:
            number = None if level is None else float(level)
        except (TypeError, ValueError):
            raise ConfigError(
                "expected a number", where=f"threshold.{kind}", found=level, allowed=ALLOWED
            ) from None
        return cls(cast("RuleKind", str(kind).strip()), number)

    from_dict = parse

    def to_dict(self) -> str | dict[str, float]:
        """Return the form used in a study file: a word, or a word with its number."""
        return self.kind if self.level is None else {self.kind: self.level}

    def __str__(self) -> str:
        return self.kind if self.level is None else f"{self.kind}={self.level!r}"

    def fit(self, label: IntArray, score: FloatArray) -> float:
        """Return the threshold; a row is positive when `score >= threshold`.

        Candidates are the observed scores and, for `specificity`, the next number above the
        largest. Ties between candidates go to the higher threshold.

        Args:
            label: `(n,)` of 0/1.
            score: `(n,)` real scores.

        Raises:
            DataError: A class that the rule needs has no rows.
        """
        if self.kind == "fixed":
            assert self.level is not None
            return self.level
        label = np.asarray(label)
        score = np.asarray(score, dtype=np.float64)
        positives, negatives = int((label == 1).sum()), int((label == 0).sum())
        needs_negatives = self.kind in ("youden", "specificity")
        needs_positives = self.kind != "specificity"
        if (needs_negatives and not negatives) or (needs_positives and not positives):
            raise DataError(
                f"the threshold rule {self} cannot be fitted",
                found=f"{positives} positives, {negatives} negatives",
                todo="give a fixed threshold, or fit on a table with both classes",
            )
        return self._search(label, score, positives, negatives)

    def _search(self, label: IntArray, score: FloatArray, positives: int, negatives: int) -> float:
        cuts = np.unique(-score)
        called = np.searchsorted(np.sort(-score), cuts, side="right")
        hits = np.searchsorted(np.sort(-score[label == 1]), cuts, side="right")
        false = called - hits
        if self.kind == "youden":
            # Whole numbers, so that equal indices tie exactly whatever the class sizes.
            best = int(np.argmax(hits * negatives - false * positives))
        elif self.kind == "prevalence":
            best = int(np.argmax(called >= positives))
        elif self.kind == "sensitivity":
            best = int(np.argmax(hits >= _count(self.level, positives)))
        else:
            kept = np.flatnonzero(negatives - false >= _count(self.level, negatives))
            if not len(kept):
                return float(np.nextafter(score.max(), np.inf))
            best = int(kept[-1])
        return float(-cuts[best])


def _count(level: float | None, total: int) -> float:
    """Return the smallest count that makes the share, forgiving the last bit of the product."""
    assert level is not None
    return level * total * (1 - 1e-12)


ALLOWED = "youden, prevalence, fixed=X, sensitivity=X, specificity=X"

Threshold = ThresholdRule | float | tuple[float, ...]
"""A rule (fitted, cross-fitted when scored on its own rows), or one frozen number per target."""
