"""The rows that an edit is learned on, and the order in which they are asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fairtune.data.values import IntArray
from fairtune.errors import DataError

if TYPE_CHECKING:
    from fairtune.editing.scene import Scene


@dataclass(frozen=True, eq=False)
class Cohort:
    """Rows of a scene with their groups and labels.

    Attributes:
        row: `(n,)` rows of the pack.
        group: `(n,)` codes into `names`; -1 where unknown.
        names: Groups that have rows here, at least two.
        label: `(n,)` class codes, or `(n, targets)` of 0/1.
        unknown: Rows of the scene whose group is unknown, whether they are among these or not.
    """

    row: IntArray
    group: IntArray
    names: tuple[str, ...]
    label: IntArray
    unknown: int

    def __len__(self) -> int:
        return len(self.row)


def cohort(scene: Scene, attribute: str, *, everyone: bool) -> Cohort:
    """Return the rows of `scene` that an edit for `attribute` is learned on.

    Groups without a row are left out: no head could be told to expect them.

    Args:
        scene: The rows.
        attribute: Attribute or crossing.
        everyone: Keep rows of an unknown group, for terms that read no group.

    Raises:
        DataError: The rows of known group are all of one group, or there are none.
    """
    code, names = scene.group(attribute)
    group, present = compact(code, names, attribute, "training rows")
    kept = np.arange(len(group)) if everyone else np.flatnonzero(group >= 0)
    unknown = int((group < 0).sum())
    return Cohort(scene.rows[kept], group[kept], present, scene.label[kept], unknown)


def compact(
    code: IntArray, names: tuple[str, ...], attribute: str, rows: str
) -> tuple[IntArray, tuple[str, ...]]:
    """Return codes into the groups that have rows, and the names of those groups.

    Raises:
        DataError: Fewer than two groups have rows.
    """
    count = np.bincount(code[code >= 0], minlength=len(names))
    present = np.flatnonzero(count)
    if len(present) < 2:
        raise DataError(
            f"the attribute has fewer than two groups among the {rows}",
            where=f"attribute '{attribute}'",
            found={names[k]: int(count[k]) for k in range(len(names))}
            | {"unknown": int((code < 0).sum())},
            todo="name another attribute: an edit hides one group from another",
        )
    place = np.full(len(names) + 1, -1, dtype=np.int64)
    place[present] = np.arange(len(present))
    return place[code], tuple(names[k] for k in present)


def batch(count: int, size: int, number: int, seed: int) -> IntArray:
    """Return the positions of batch `number`, of `min(size, count)` rows.

    Passes over all rows, each in an order of its own, stand one behind another and are cut into
    full batches: every pass has every row once, and a batch may hold the end of one pass and the
    beginning of the next. A function of its arguments alone, so that nothing has to be kept.

    Args:
        count: Number of rows.
        size: Rows of a batch.
        number: Counted from 0.
        seed: Seed of the orders.
    """
    size = min(size, count)
    first, last = number * size, (number + 1) * size
    passes = range(first // count, (last - 1) // count + 1)
    drawn = np.concatenate([np.random.default_rng([seed, p]).permutation(count) for p in passes])
    skipped = passes.start * count
    return np.asarray(drawn[first - skipped : last - skipped])


def sample(cell: IntArray, size: int, number: int, seed: int) -> IntArray:
    """Return about `size` positions in ascending order, drawn evenly from every cell.

    Shares of cells are kept, and every cell has at least one row, so that a head that is fitted
    on a part of the rows knows all groups and classes.

    Args:
        cell: `(n,)` codes from 0.
        size: How many; 0, or more than there are, for all.
        number: Which draw.
        seed: Seed of the draws.
    """
    count = len(cell)
    if not 0 < size < count:
        return np.arange(count)
    drawn = np.random.default_rng([seed, number, 1]).permutation(count)
    by_cell = drawn[np.argsort(cell[drawn], kind="stable")]
    sizes = np.bincount(cell)
    begin = np.cumsum(sizes) - sizes
    ordered = cell[by_cell]
    rank = (np.arange(count) - begin[ordered]) / sizes[ordered]
    least = max(size, int((sizes > 0).sum()))
    return np.sort(by_cell[np.argsort(rank, kind="stable")[:least]])
