"""How well a linear head reads an attribute from embeddings of rows it was not fitted on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairtune.data.values import IntArray
from fairtune.editing.cohort import compact
from fairtune.editing.heads import Floats, attribute_head
from fairtune.evaluation.estimates import estimate_set
from fairtune.evaluation.intervals import TAIL
from fairtune.evaluation.metrics import METRICS
from fairtune.evaluation.predictions import Predictions
from fairtune.evaluation.values import BARE, Question


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear head that reads an attribute.

    Attributes:
        attribute: Attribute or crossing.
        names: Its groups, those that the head was fitted on.
        weight: `(groups, dim)`.
        bias: `(groups,)`.
    """

    attribute: str
    names: tuple[str, ...]
    weight: Floats
    bias: Floats

    def logits(self, features: Floats) -> Floats:
        """Return `(n, groups)` of embeddings `(n, dim)`."""
        return np.asarray(features @ self.weight.T + self.bias)


@dataclass(frozen=True)
class Read:
    """How well groups were told apart.

    Attributes:
        auc: Area under the ROC curve; of more than two groups the mean over groups of each
            against the rest.
        low, high: Its 95 % interval over patients.
        accuracy: Share of rows whose likeliest group is their own.
        rows: Rows of known group.
        unknown: Rows that were left out, of unknown group or of one that the head does not know.
    """

    auc: float
    low: float
    high: float
    accuracy: float
    rows: int
    unknown: int


def fit_probe(
    features: Floats,
    code: IntArray,
    names: tuple[str, ...],
    *,
    attribute: str,
    l2: float = 1e-2,
    told: Callable[[], None] = lambda: None,
) -> Probe:
    """Return the softmax head over groups, solved on rows of known group.

    Args:
        features: `(n, dim)` embeddings.
        code: `(n,)` codes into `names`, -1 where unknown.
        names: Groups; those without a row are left out.
        attribute: Attribute or crossing.
        l2: Penalty on the weights of standardised features.
        told: Called before every look at the features; may raise.

    Raises:
        DataError: Fewer than two groups have rows.
    """
    group, present = compact(code, names, attribute, "rows that the head is fitted on")
    weight, bias = attribute_head(features, group, len(present), l2, told)
    return Probe(attribute, present, weight, bias)


def read(
    probe: Probe, features: Floats, code: IntArray, names: tuple[str, ...], patient: IntArray
) -> Read:
    """Return how well `probe` reads the attribute of some rows.

    Args:
        probe: A head.
        features: `(n, dim)`.
        code: `(n,)` codes into `names`, -1 where unknown.
        names: Groups.
        patient: `(n,)` codes of patients, the unit of resampling.

    Raises:
        DataError: Fewer than two groups that the head knows have rows.
    """
    table = table_of(probe, features, code, names, patient)
    question = Question(table, None, BARE)
    found = estimate_set(question, METRICS["auc"], np.arange(len(table)))
    low, high = found.bound(TAIL)
    likeliest = table.score > 0 if table.score.ndim == 1 else table.score.argmax(axis=1)
    right = float((likeliest == table.label).mean())
    return Read(found.value, low, high, right, len(table), len(code) - len(table))


def table_of(
    probe: Probe, features: Floats, code: IntArray, names: tuple[str, ...], patient: IntArray
) -> Predictions:
    """Return what `probe` says of the rows of known group, with the group as the label.

    Scores are log-odds: of the second of two groups, of each group against the rest of several.
    Groups that have no rows here do not count.

    Args:
        probe: A head.
        features: `(n, dim)`.
        code: `(n,)` codes into `names`, -1 where unknown.
        names: Groups.
        patient: `(n,)` codes of patients.

    Raises:
        DataError: Fewer than two groups that the head knows have rows.
    """
    own = np.array([_place(probe.names, name) for name in names] + [-1], dtype=np.int64)
    group, present = compact(own[code], probe.names, probe.attribute, "rows that are read")
    known = group >= 0
    columns = [probe.names.index(name) for name in present]
    return Predictions(
        label=group[known],
        score=log_odds(probe.logits(features[known])[:, columns]),
        patient=patient[known],
        task="binary" if len(present) == 2 else "multiclass",
    )


def log_odds(logits: NDArray[np.float64]) -> Floats:
    """Return the log-odds of the second of two groups `(n,)`, or of each of several `(n, k)`."""
    from scipy import special

    if logits.shape[1] == 2:
        return np.asarray(logits[:, 1] - logits[:, 0])
    groups = range(logits.shape[1])
    rest = [special.logsumexp(np.delete(logits, k, axis=1), axis=1) for k in groups]
    return np.asarray(logits - np.stack(rest, axis=1))


def _place(names: tuple[str, ...], name: str) -> int:
    return names.index(name) if name in names else -1
