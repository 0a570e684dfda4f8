"""Temperature scaling of each group by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fairtune.config import Config
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.fields import Attribute

if TYPE_CHECKING:
    from fairtune.evaluation.predictions import Predictions

FEWEST = 20
"""Rows that a group needs for a temperature of its own, of both classes."""
BOUNDS = (-3.0, 3.0)
"""Of log T: from 1/20 to 20."""
TINY = 1e-300

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Temperatures:
    """The temperatures of a run.

    Attributes:
        attribute: Whose groups.
        pooled: One for each target (one alone where there is one question), of all rows.
        groups: The same for each group that has its own.
        lacking: Groups of the fitted rows that share the pooled one in some target.
    """

    attribute: str
    pooled: tuple[float, ...]
    groups: Mapping[str, tuple[float, ...]]
    lacking: tuple[str, ...] = ()

    @property
    def cut(self) -> float | None:
        """Tempered scores may be cut anywhere."""
        return None

    @property
    def named(self) -> tuple[str, ...]:
        """Groups with temperatures of their own."""
        return tuple(name for name in self.groups if name not in self.lacking)

    def apply(self, predictions: Predictions) -> Predictions:
        """Return the table with every score at the temperature of its row's group."""
        from fairtune.mitigation.grouped import places

        rules = np.array([*self.groups.values(), self.pooled])
        # The place -1, of unknown groups, reads the last line: the pooled one.
        temperature = rules[places(predictions, self.attribute, list(self.groups))]
        if predictions.score.ndim == 1:
            temperature = temperature[:, 0]
        score = tempered(predictions.score, temperature, predictions.task)
        return replace(predictions, score=score)

    def to_json(self) -> dict[str, Any]:
        """Return the temperatures as lists."""
        return {
            "attribute": self.attribute,
            "pooled": list(self.pooled),
            "groups": {name: list(values) for name, values in self.groups.items()},
            "lacking": list(self.lacking),
        }


@MITIGATIONS.register("group_temperature")
class GroupTemperature(Config):
    """Divide the logits of a row by the temperature of its group.

    T_g minimises sum_{i in g} -log p_i(y_i; T), p(T) = sigmoid(z / T), or softmax(z / T) of
    several classes (Guo et al., sec. 4.2), over log T in [-3, 3]; of several targets each has
    its own. Guo et al. fit one T for all rows. Calibrating each group by itself is where Pleiss
    et al., On fairness and calibration, NeurIPS 2017, set out from; it is weaker than
    multicalibration (Hebert-Johnson et al., ICML 2018), which asks for calibration in all
    subgroups that can be told from the input. Groups with fewer than 20 rows or of one class,
    rows of unknown group, and groups that were not fitted, get the T of all rows pooled.

    The order of rows of one group stays, so group AUCs do; the pooled AUC may change.

    Attributes:
        attribute: Whose groups; has to be known of every row that is scored.
    """

    paper: ClassVar[str] = (
        "Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML 2017; "
        "by group"
    )
    formula: ClassVar[str] = "p = sigmoid(z / T_g), T_g = argmin of the group's nll on validation"
    slots: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = False
    mixes: ClassVar[bool] = True
    clashes: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("binary", "multiclass", "multilabel")

    attribute: Attribute = None

    @property
    def idle(self) -> tuple[str, ...]:
        """Its field always acts."""
        return ()

    def fit(self, predictions: Predictions) -> Temperatures:
        """Return the temperatures that fit these rows best.

        Raises:
            DataError: The rows are in fewer than two groups.
        """
        from fairtune.mitigation.grouped import fitted_groups

        groups = fitted_groups(predictions, self.attribute, "group_temperature")
        targets = predictions.per_target()
        pooled = tuple(temperature(one.label, one.score) for one in targets)
        own: dict[str, tuple[float, ...]] = {}
        lacking = []
        for code, name in enumerate(groups.names):
            rows = np.flatnonzero(groups.codes == code)
            found = [
                temperature(one.label[rows], one.score[rows]) if enough(one.label[rows]) else None
                for one in targets
            ]
            if any(value is not None for value in found):
                own[name] = tuple(p if t is None else t for t, p in zip(found, pooled))
            if len(rows) and None in found:
                lacking.append(name)
        return Temperatures(groups.name, pooled, own, tuple(lacking))

    @classmethod
    def restore(cls, data: Mapping[str, Any]) -> Temperatures:
        """Return what `Temperatures.to_json` wrote."""
        groups = {name: tuple(values) for name, values in data["groups"].items()}
        return Temperatures(
            data["attribute"], tuple(data["pooled"]), groups, tuple(data["lacking"])
        )


def enough(label: Ints) -> bool:
    """Tell whether rows with these labels have a temperature of their own."""
    return len(label) >= FEWEST and len(np.unique(label)) > 1


def tempered(score: Floats, temperature: Floats | float, task: str) -> Floats:
    """Return probabilities at another temperature.

    Args:
        score: `(n,)` or `(n, t)` chances, or `(n, k)` of the classes of a `multiclass` task.
        temperature: As `score`, `(n, 1)` for classes, or one for all.
        task: How `score` is read.
    """
    from scipy import special

    if task == "multiclass":
        log = np.log(np.maximum(score, TINY)) / temperature
        return np.asarray(special.softmax(log, axis=1))
    # Chances that rounding has made 0 or 1 stand for the nearest that are neither.
    logit = special.logit(np.clip(score, TINY, 1 - 2**-53))
    return np.asarray(special.expit(logit / temperature))


def temperature(label: Ints, score: Floats) -> float:
    """Return the temperature of least mean negative log-likelihood, 1 where none is better.

    Args:
        label: `(n,)` class index.
        score: `(n,)` chance of class 1, or `(n, k)` of each class.
    """
    from scipy import optimize, special

    if len(np.unique(label)) < 2:
        return 1.0  # of one class the best T is the smallest: it says nothing of calibration
    if score.ndim == 1:
        score = np.stack([1 - score, score], axis=1)
    log = np.log(np.maximum(score, TINY))

    def loss(log_t: float) -> float:
        scaled = log / np.exp(log_t)
        chosen = scaled[np.arange(len(label)), label]
        return float((special.logsumexp(scaled, axis=1) - chosen).mean())

    found = optimize.minimize_scalar(
        loss, bounds=BOUNDS, method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x)) if found.fun < loss(0.0) - 1e-12 else 1.0
