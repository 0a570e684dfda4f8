"""The one table every figure is computed from: labels, scores, attributes, patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from fairtune.errors import DataError, FairtuneError, did_you_mean, raise_all
from fairtune.evaluation.arrays import AnyArray, FloatArray, IntArray

if TYPE_CHECKING:
    import pandas as pd

Task = Literal["binary", "multiclass", "multilabel"]

CROSS = " * "
"""Stands between the group names of a crossing, as in `60+ * F`."""

MAX_SHOWN = 10
MAX_NUMERIC_GROUPS = 10


@dataclass(frozen=True, eq=False)
class Attribute:
    """A sensitive attribute as named groups.

    Args:
        name: Column name, or a crossing such as `age*sex`.
        names: Group names, in the order of their codes.
        codes: `(n,)` index into `names`; -1 where the attribute is unknown.
    """

    name: str
    names: tuple[str, ...]
    codes: IntArray

    def __post_init__(self) -> None:
        codes = np.asarray(self.codes, dtype=np.int64)
        if codes.ndim != 1 or (len(codes) and not -1 <= codes.min() <= codes.max() < self.size):
            raise DataError(
                f"group codes must be one-dimensional and lie in -1..{self.size - 1}",
                where=f"attribute {self.name}",
            )
        object.__setattr__(self, "codes", codes)

    @property
    def size(self) -> int:
        """Number of named groups."""
        return len(self.names)

    def take(self, index: AnyArray) -> Attribute:
        """Return the attribute of the rows `index`."""
        return Attribute(self.name, self.names, self.codes[index])

    def cross(self, other: Attribute) -> Attribute:
        """Return the crossing with `other`; unknown where either part is."""
        names = tuple(a + CROSS + b for a in self.names for b in other.names)
        codes = self.codes * other.size + other.codes
        codes = np.where((self.codes < 0) | (other.codes < 0), -1, codes)
        return Attribute(f"{self.name}*{other.name}", names, codes)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one model said about one split, or the models of several folds each about its own rows.

    Args:
        label: `(n,)` class index, or `(n, t)` of 0/1 for `multilabel`.
        score: `(n,)` score of class 1 (any real; metrics of probabilities ask for [0, 1]),
            `(n, k)` class probabilities for `multiclass`, `(n, t)` for `multilabel`.
        attributes: Sensitive attributes by name.
        patient: `(n,)` code of the unit of resampling; every row its own when left out.
        row: `(n,)` row numbers, used in messages; 0..n-1 when left out.
        task: How `label` and `score` are read.
        strata: What `--within` standardises over, if anything.
        targets: Names of the columns of a multi-label table.
        model: `(n,)` which model scored the row, 0..k-1; 0 for all when left out. Scores of
            different models are not comparable: figures are computed per model and averaged.
        cut: At and above which score a row is called positive, in every target, where that is
            part of how the scores were made: it then takes the place of any threshold or rule.
        queries: Batches that the model was asked about for the edit that images had: 0 without
            one, of several models the mean.

    Raises:
        DataError: Shapes that do not fit each other, labels outside their range, or scores that
            are not finite; all faults at once, with row numbers.
    """

    label: IntArray
    score: FloatArray
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    patient: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    row: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    task: Task = "binary"
    strata: Attribute | None = None
    targets: tuple[str, ...] = ()
    model: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    cut: float | None = None
    queries: float = 0.0

    def __post_init__(self) -> None:
        n = len(self.label)
        set_ = object.__setattr__
        set_(self, "score", np.asarray(self.score, dtype=np.float64))
        set_(self, "label", _whole(np.asarray(self.label)))
        for name in ("row", "patient"):
            given = np.asarray(getattr(self, name))
            set_(self, name, np.arange(n) if n and not len(given) else given.astype(np.int64))
        model = np.asarray(self.model)
        set_(self, "model", model.astype(np.int64) if len(model) else np.zeros(n, dtype=np.int64))
        if self.task == "multilabel" and not self.targets and self.label.ndim == 2:
            set_(self, "targets", tuple(f"target{j}" for j in range(self.label.shape[1])))
        raise_all("predictions", [*_shape_faults(self), *_value_faults(self)])

    def __len__(self) -> int:
        return len(self.label)

    @property
    def classes(self) -> int:
        """Number of classes: 2, or the number of score columns of a multi-class table."""
        return self.score.shape[1] if self.task == "multiclass" else 2

    @cached_property
    def models(self) -> int:
        """Number of models whose scores stand here."""
        return int(self.model.max()) + 1 if len(self.model) else 1

    def per_model(self) -> tuple[Predictions, ...]:
        """Return one table per model; a table of one model returns itself."""
        if self.models == 1:
            return (self,)
        return tuple(
            replace(self.take(self.model == k), model=np.empty(0, dtype=np.int64))
            for k in range(self.models)
        )

    def take(self, index: AnyArray) -> Predictions:
        """Return the rows `index` (positions or a mask), patients and row numbers kept."""
        return replace(
            self,
            label=self.label[index],
            score=self.score[index],
            patient=self.patient[index],
            row=self.row[index],
            model=self.model[index],
            attributes={k: a.take(index) for k, a in self.attributes.items()},
            strata=None if self.strata is None else self.strata.take(index),
        )

    def attribute(self, name: str) -> Attribute:
        """Return the attribute `name`, or the crossing when names are joined by `*`.

        Raises:
            DataError: A name that is not an attribute of this table.
        """
        parts = [part.strip() for part in name.split("*")]
        for part in parts:
            if part not in self.attributes:
                raise DataError(
                    "no such attribute",
                    found=part,
                    allowed=sorted(self.attributes) or "none: the table has no attributes",
                    todo=did_you_mean(part, self.attributes),
                )
        crossed = self.attributes[parts[0]]
        for part in parts[1:]:
            crossed = crossed.cross(self.attributes[part])
        return crossed

    def per_target(self) -> tuple[Predictions, ...]:
        """Return one binary table per target; a table with one question returns itself."""
        if self.task != "multilabel":
            return (self,)
        return tuple(
            replace(
                self,
                label=self.label[:, j],
                score=self.score[:, j],
                task="binary",
                targets=(name,),
            )
            for j, name in enumerate(self.targets)
        )

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        label: str | Sequence[str],
        score: str | Sequence[str],
        attributes: Sequence[str] = (),
        patient: str | None = None,
        within: str | None = None,
        row: str | None = None,
    ) -> Predictions:
        """Read predictions from a data frame.

        Several `label` columns make a multi-label table, one label with several `score` columns
        a multi-class one (column j is the probability of class j).

        Args:
            frame: One row per image.
            label: Column(s) with the labels.
            score: Column(s) with the scores.
            attributes: Columns with group names; a missing value is "unknown".
            patient: Column naming the patient, the unit of resampling.
            within: Column with the strata to compute within.
            row: Column with row numbers; the position in the frame when left out.

        Raises:
            DataError: Every fault of the table at once.
        """
        labels, scores = _listed(label), _listed(score)
        wanted = [*labels, *scores, *attributes, *(c for c in (patient, within, row) if c)]
        problems: list[FairtuneError] = [
            DataError(
                "no such column",
                found=name,
                allowed=[str(c) for c in frame.columns],
                todo=did_you_mean(name, map(str, frame.columns)),
            )
            for name in dict.fromkeys(wanted)
            if name not in frame.columns
        ]
        if len(labels) > 1 and len(labels) != len(scores):
            problems.append(
                DataError("as many score columns as label columns are needed", found=len(scores))
            )
        raise_all("predictions", problems)
        groups: dict[str, Attribute] = {}
        for name in dict.fromkeys([*attributes, *([within] if within else [])]):
            try:
                groups[name] = attribute_from_column(frame[name], name)
            except DataError as fault:
                problems.append(fault)
        raise_all("predictions", problems)
        task: Task = "multilabel" if len(labels) > 1 else "binary"
        if len(labels) == 1 and len(scores) > 1:
            task = "multiclass"
        empty = np.empty(0, dtype=np.int64)
        return cls(
            label=frame[labels if task == "multilabel" else labels[0]].to_numpy(),
            score=frame[scores if task != "binary" else scores[0]].to_numpy(),
            attributes={name: groups[name] for name in attributes},
            patient=_patient_codes(frame[patient]) if patient else empty,
            row=frame[row].to_numpy() if row else empty,
            task=task,
            strata=groups[within] if within else None,
            targets=tuple(labels) if task == "multilabel" else (),
        )


def attribute_from_column(column: pd.Series[str], name: str) -> Attribute:
    """Turn a column into named groups: categories keep their order, other values are sorted.

    Raises:
        DataError: A numeric column with more than ten distinct values, which needs bins.
    """
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        categories = [str(c) for c in column.cat.categories]
        return Attribute(name, tuple(categories), np.asarray(column.cat.codes, dtype=np.int64))
    known = column.dropna()
    values = known.unique()
    numeric = pd.api.types.is_numeric_dtype(column.dtype)
    if numeric and len(values) > MAX_NUMERIC_GROUPS:
        raise DataError(
            f"a numeric attribute with {len(values)} distinct values is not a set of groups",
            where=f"column {name}",
            allowed=f"at most {MAX_NUMERIC_GROUPS} distinct numbers, or text",
            todo="bin it first, for example into '<60' and '60+'",
        )
    ordered = sorted(values) if numeric else sorted(values, key=str)
    index = {value: i for i, value in enumerate(ordered)}
    codes = np.array([index.get(value, -1) for value in column], dtype=np.int64)
    return Attribute(name, tuple(_group_name(v) for v in ordered), codes)


def _group_name(value: object) -> str:
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def _patient_codes(column: pd.Series[str]) -> IntArray:
    """Code patients by first appearance; rows without one count as a patient each."""
    import pandas as pd

    codes, known = pd.factorize(column)
    codes = codes.astype(np.int64)
    missing = codes < 0
    codes[missing] = len(known) + np.arange(missing.sum())
    return codes


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _whole(label: AnyArray) -> AnyArray:
    """Return `label` as integers where that loses nothing, else as it came, to be reported."""
    if label.dtype.kind in "iub":
        return label.astype(np.int64)
    if label.dtype.kind == "f" and np.isfinite(label).all() and (label == label.round()).all():
        return label.astype(np.int64)
    return label


def _shape_faults(p: Predictions) -> list[FairtuneError]:
    n = len(p.label)
    faults: list[FairtuneError] = []
    if n == 0:
        faults.append(DataError("the predictions have no rows"))
    dims = {"binary": (1, 1), "multiclass": (1, 2), "multilabel": (2, 2)}.get(p.task)
    if dims is None:
        return [DataError("unknown task", found=p.task, allowed="binary, multiclass, multilabel")]
    fits = p.task != "multilabel" or p.label.shape == p.score.shape
    if (p.label.ndim, p.score.ndim) != dims or len(p.score) != n or not fits:
        faults.append(
            DataError(
                f"label and score do not fit the task {p.task}",
                found=f"label {p.label.shape}, score {p.score.shape}",
                allowed="binary (n,) (n,); multiclass (n,) (n, k); multilabel (n, t) (n, t)",
            )
        )
    lengths = {"patient": len(p.patient), "row": len(p.row), "model": len(p.model)}
    lengths |= {f"attribute {name}": len(a.codes) for name, a in p.attributes.items()}
    if p.strata is not None:
        lengths["strata"] = len(p.strata.codes)
    for name, length in lengths.items():
        if length != n:
            faults.append(DataError(f"expected {n} entries", where=name, found=length))
    if p.strata is not None and p.models > 1:
        faults.append(DataError("figures of several models cannot be computed within strata"))
    return faults


def _value_faults(p: Predictions) -> list[FairtuneError]:
    faults: list[FairtuneError] = []
    if len(p.row) != len(p.label) or not len(p.label):
        return faults
    finite = np.asarray(np.isfinite(p.score).reshape(len(p.score), -1).all(axis=1))
    if len(finite) == len(p.row) and not finite.all():
        faults.append(
            DataError(f"scores must be finite; rows {shown_rows(p.row[~finite])} are not")
        )
    top = p.score.shape[1] - 1 if p.task == "multiclass" and p.score.ndim == 2 else 1
    if p.label.dtype.kind == "i":
        outside = np.asarray((p.label < 0) | (p.label > top))
    else:
        outside = ~np.isin(p.label.astype(object), np.arange(top + 1).astype(object))
    odd = np.asarray(outside.reshape(len(p.label), -1).any(axis=1))
    if odd.any():
        faults.append(
            DataError(
                f"labels must be class numbers; rows {shown_rows(p.row[odd])} are not",
                found=sorted({str(v) for v in np.ravel(p.label[odd])})[:5],
                allowed=f"0 to {top}",
            )
        )
    return faults


def shown_rows(rows: AnyArray) -> str:
    """Return up to ten row numbers as text, with the count of the others."""
    shown = ", ".join(str(r) for r in rows[:MAX_SHOWN])
    more = len(rows) - MAX_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
