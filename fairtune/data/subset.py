"""Parts of the training and validation rows: folds, and a fraction of the training patients.

Pure functions of the table and a seed, so that every process draws the same rows. Both walk
through the patients in one order, sorted by label, then by attribute after attribute, then by
their number of rows and a hash of seed and id: whatever is taken evenly along that order is even
in every class, in every group of the first attribute within a class, and so on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairtune.data.pack import Pack
from fairtune.data.values import IntArray, shown
from fairtune.errors import DataError

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, eq=False)
class Patients:
    """The patients of some rows, in their order.

    Attributes:
        code: `(n,)` place of each row's patient.
        kinds: `(patients, 1 + attributes)` label code, then a group code per attribute (-1 for
            unknown): of several rows of a patient the highest.
        sizes: `(patients,)` rows.
    """

    code: IntArray
    kinds: IntArray
    sizes: IntArray

    @classmethod
    def of(cls, ids: Sequence[str], label: IntArray, groups: IntArray, seed: int) -> Patients:
        """Sort the patients of some rows.

        Args:
            ids: `(n,)` patient of each row.
            label: `(n,)` class codes, or `(n, t)` of 0/1, where the rarest target that a patient
                has stands for its label.
            groups: `(n, attributes)` codes, the first attribute first; -1 for unknown.
            seed: Enters the hash.
        """
        names, which = np.unique(np.asarray(ids, dtype=str), return_inverse=True)
        count = len(names)
        rows = np.column_stack([label, groups]).astype(np.int64)
        highest = np.full((count, rows.shape[1]), -1, dtype=np.int64)
        np.maximum.at(highest, which, rows)
        wide = label.shape[1] if label.ndim == 2 else 1
        own = _rarest(highest[:, :wide]) if label.ndim == 2 else highest[:, 0]
        kinds = np.column_stack([own, highest[:, wide:]])
        sizes = np.bincount(which, minlength=count)
        marks = [hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in names]
        order = np.lexsort((np.array(marks), -sizes, *kinds.T[::-1]))
        place = np.empty(count, dtype=np.int64)
        place[order] = np.arange(count)
        return cls(place[which], kinds[order], sizes[order])

    def __len__(self) -> int:
        return len(self.kinds)


def deal(patients: Patients, folds: int) -> IntArray:
    """Return the fold of every row, `(n,)` from 0; no patient is in two.

    Class by class, each next `folds` patients in their order go to one fold each, the one with
    the most rows to the fold that has the fewest. So folds hold equally many patients of a class
    to within one, and of a class in a group of the first attribute to within two; their rows
    differ by no more than the rows of one patient.
    """
    fold = np.empty(len(patients), dtype=np.int64)
    load = np.zeros(folds, dtype=np.int64)
    starts = np.flatnonzero(np.diff(patients.kinds[:, 0], prepend=-2))
    for first, last in zip(starts, [*starts[1:], len(patients)]):
        for start in range(first, last, folds):
            sizes = patients.sizes[start : min(start + folds, last)]
            free = np.argsort(load, kind="stable")[: len(sizes)]
            largest = np.argsort(-sizes, kind="stable")
            fold[start + largest] = free
            load[free] += sizes[largest]
    return np.asarray(fold[patients.code])


def chosen(patients: Patients, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return which rows belong to `fraction` of the patients, `(n,)`.

    Patient i in their order comes in from the share frac(s + i g) on, with g the golden ratio and
    s drawn from the seed (a Kronecker sequence): every run of m patients along the order has
    m * fraction of them to within four, and a smaller fraction is part of a larger one.
    """
    start = int(hashlib.sha256(f"fraction:{seed}".encode()).hexdigest()[:8], 16) / 2**32
    comes_in = (start + np.arange(len(patients)) * GOLDEN) % 1.0
    taken = (comes_in < fraction) | (fraction >= 1.0)
    return np.asarray(taken[patients.code])


def fold_rows(
    pack: Pack, index: int, of: int, by: str | None, seed: int
) -> tuple[IntArray, IntArray]:
    """Return the rows that fold `index` of `of` is fitted on, and those it is validated on.

    Train and val rows of the official split together are dealt out, stratified by label, then by
    the attribute or crossing `by`, then by the other attributes; test rows are in no fold.

    Raises:
        DataError: A class has fewer patients than there are folds.
    """
    rows = np.sort(np.concatenate([pack.rows("train"), pack.rows("val")]))
    first = [name.strip() for name in (by or "").split("*") if name]
    names = [*first, *(name for name in pack.table.attributes if name not in first)]
    patients = _patients(pack, rows, names, seed)
    _enough(pack, rows, patients, of)
    fold = deal(patients, of)
    return rows[fold != index - 1], rows[fold == index - 1]


def fraction_rows(pack: Pack, rows: IntArray, fraction: float, seed: int) -> IntArray:
    """Return the rows of `fraction` of the patients of `rows`, stratified by label and attributes.

    Raises:
        DataError: A class or a group that `rows` have is left without a row.
    """
    names = pack.table.attributes
    kept = rows[chosen(_patients(pack, rows, names, seed), fraction, seed)]
    label = pack.labels(rows)
    own = label if label.ndim == 2 else label[:, None]
    held = pack.labels(kept).reshape(len(kept), own.shape[1])
    lost = [
        _class_name(pack, column, code)
        for column in range(own.shape[1])
        for code in sorted(set(own[:, column]) - set(held[:, column]))
    ]
    for name in names:
        have, keep = (set(pack.groups(r, name).tolist()) - {-1} for r in (rows, kept))
        lost += [f"{name}/{pack.group_names(name)[code]}" for code in sorted(have - keep)]
    if lost:
        raise DataError(
            f"the fraction {fraction:g} of the training patients leaves classes or groups "
            "without a row",
            where="recipe.data.fraction",
            found=shown(lost),
            todo="take a larger fraction, or merge groups",
        )
    return kept


def _patients(pack: Pack, rows: IntArray, names: Sequence[str], seed: int) -> Patients:
    ids = pack.table.frame["patient"].iloc[rows].astype(str).tolist()
    columns = [pack.groups(rows, name) for name in names]
    groups = np.column_stack(columns) if columns else np.empty((len(rows), 0), dtype=np.int64)
    return Patients.of(ids, pack.labels(rows), groups, seed)


def _rarest(has: IntArray) -> IntArray:
    """Return 0, or 1 + the rarest target of each patient by its place in order of frequency."""
    common = np.argsort(-has.sum(axis=0), kind="stable")
    ranked = has[:, common] * (1 + np.arange(has.shape[1]))
    return np.asarray(ranked.max(axis=1, initial=0))


def _enough(pack: Pack, rows: IntArray, patients: Patients, folds: int) -> None:
    label = pack.labels(rows)
    columns = label if label.ndim == 2 else label[:, None]
    found: list[str] = []
    for j in range(columns.shape[1]):
        for code in np.unique(columns[:, j]):
            mine = patients.code[columns[:, j] == code]
            if label.ndim == 1:  # what a patient is dealt out as
                mine = np.flatnonzero(patients.kinds[:, 0] == code)
            count = len(np.unique(mine))
            if count < folds:
                found.append(f"{count} of {_class_name(pack, j, code)}")
    if found:
        raise DataError(
            f"{folds} folds need at least as many patients of every class",
            where="validation.folds",
            found=shown(found),
            todo="use fewer folds",
        )


def _class_name(pack: Pack, column: int, code: int) -> str:
    table = pack.table
    if table.task == "multilabel":
        return f"{table.classes[column]} {'present' if code else 'absent'}"
    return f"class {table.classes[code]}"
