"""Which training rows stand for their classes."""

from __future__ import annotations

import numpy as np

from fairtune.usage import Task
from fairtune.usage.at_once import Floats, Ints


def classes_of(label: Ints, task: Task, classes: int) -> Floats:
    """Return `(n, classes)` 0/1 of what is said of each row, in the order of its sentences.

    Of several targets that is for each whether it is absent, and whether it is there.
    """
    if task == "multilabel":
        return np.stack([1 - label, label], axis=2).reshape(len(label), -1).astype(np.float64)
    return np.eye(classes)[label]


def drawn(held: Floats, shots: int, balance: str, group: Ints, seed: int) -> Ints:
    """Return places of rows, at most `shots` times the number of classes.

    Rows are looked at in a random order and taken where one of their classes has fewer than
    `shots` rows yet; with `both` those of each group of the same classes in turn, and those of an
    unknown group behind all others; with `none` whatever their classes.

    Args:
        held: What `classes_of` returned.
        shots: Most rows of a class.
        balance: `class`, `both` or `none`.
        group: `(n,)` groups, -1 where unknown; read with `both`.
        seed: Of the order.
    """
    n, classes = held.shape
    order = np.random.default_rng(seed).permutation(n)
    if balance == "none":
        return np.sort(order[: shots * classes])
    if balance == "both":
        order = order[np.argsort(_turn(held[order], group[order]), kind="stable")]
    room = np.full(classes, shots)
    taken = []
    for row in order:
        if (held[row] * room > 0).any():
            room = np.maximum(room - held[row], 0)
            taken.append(row)
        if not room.any():
            break
    return np.sort(np.array(taken, dtype=np.int64))


def _turn(held: Floats, group: Ints) -> Ints:
    """Return how many rows of the same classes and group come before each; unknown ones last."""
    cells = np.column_stack([held.astype(np.int64), group])
    _, cell = np.unique(cells, axis=0, return_inverse=True)
    turn = np.zeros(len(held), dtype=np.int64)
    for code in range(int(cell.max()) + 1 if len(cell) else 0):
        mine = np.flatnonzero(cell.reshape(-1) == code)
        turn[mine] = np.arange(len(mine))
    return np.where(group < 0, turn + len(held), turn)
