"""How a sampler and a pruner see several objectives: as a front, or as one number.

    search = pareto | {weighted: {OBJECTIVE: weight, ...}} | {chebyshev: {OBJECTIVE: weight, ...}}

What is stored is all objectives, whatever the form: it may change when a study is resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from fairtune.errors import ConfigError, did_you_mean
from fairtune.evaluation.arrays import FloatArray
from fairtune.evaluation.objectives import Objective

FORM = "pareto, {weighted: {OBJECTIVE: weight, ...}} or {chebyshev: {OBJECTIVE: weight, ...}}"
AUGMENTED = 0.05


@dataclass(frozen=True)
class Form:
    """How several objectives are looked for.

    Attributes:
        kind: As in the study file.
        weights: One per objective, above 0, their sum 1; empty for `pareto`.
    """

    kind: Literal["pareto", "weighted", "chebyshev"] = "pareto"
    weights: tuple[float, ...] = ()

    @classmethod
    def parse(cls, written: Any, objectives: Sequence[Objective]) -> Form:
        """Read the form as a study file has it.

        Raises:
            ConfigError: Another form, an objective without a weight or the reverse, or weights
                that are not above 0.
        """
        if written == "pareto":
            return cls()
        kind = next(iter(written)) if isinstance(written, dict) and len(written) == 1 else None
        if kind not in ("weighted", "chebyshev") or not isinstance(written[kind], dict):
            raise ConfigError("not a form of search", found=written, allowed=FORM)
        names = [str(objective) for objective in objectives]
        if len(names) < 2:
            raise ConfigError(
                "one objective needs no weights", found=written, todo="remove 'search'"
            )
        given = {str(Objective.parse(str(name))): w for name, w in written[kind].items()}
        for name in given:
            if name not in names:
                raise ConfigError(
                    "a weight for what is not an objective of this study",
                    found=name,
                    allowed=names,
                    todo=did_you_mean(name, names),
                )
        if set(given) != set(names):
            raise ConfigError("every objective needs a weight", found=list(given), allowed=names)
        weights = [given[name] for name in names]
        if not all(type(w) in (int, float) and 0 < w < np.inf for w in weights):
            raise ConfigError("a weight is a number above 0", found=weights)
        total = float(sum(weights))
        return cls(kind, tuple(w / total for w in weights))

    @property
    def is_scalar(self) -> bool:
        """Whether the objectives are seen as one number."""
        return self.kind != "pareto"

    def scalar(self, values: ArrayLike) -> FloatArray:
        r"""Return `(n,)` single numbers, higher is better, of points in the objectives' own units.

        `weighted`: $\sum_j w_j x_j$. `chebyshev`: as `chebyshev`, from the best value of each
        objective among the points.

        Args:
            values: `(n, m)`, higher is better.
        """
        points = np.asarray(values, dtype=float)
        if self.kind == "weighted":
            return np.asarray(points @ np.asarray(self.weights))
        return chebyshev(points, self.weights)

    def to_json(self, objectives: Sequence[Objective]) -> str | dict[str, Any]:
        """Return the form as a study file has it."""
        if not self.is_scalar:
            return self.kind
        return {self.kind: dict(zip(map(str, objectives), self.weights))}


def chebyshev(points: FloatArray, weights: Sequence[float]) -> FloatArray:
    r"""Return `(n,)` augmented Chebyshev numbers, higher is better.

    $-\max_j w_j d_j - 0.05 \sum_j w_j d_j$ with $d_j = \max_i x_{ij} - x_j$. The greatest number
    belongs to a point of the front, and every point of the front has weights for which it is its
    own, which no weighted sum can say of the points in a hollow of the front (Steuer and Choo
    1983, "An interactive weighted Tchebycheff procedure for multiple objective programming").

    Args:
        points: `(n, m)`, higher is better.
        weights: `(m,)`.
    """
    if not len(points):
        return np.empty(0)
    short = (points.max(axis=0) - points) * np.asarray(weights, dtype=float)
    return np.asarray(-short.max(axis=1) - AUGMENTED * short.sum(axis=1))


def signed(values: Sequence[float], signs: Sequence[float]) -> tuple[float, ...]:
    """Return values as higher is better."""
    return tuple(sign * value for sign, value in zip(signs, values, strict=True))
