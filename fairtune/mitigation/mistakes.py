"""Training rows that a first fit got wrong, and the weights that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairtune.data.batch import Batch
from fairtune.mitigation.context import Context, Ints
from fairtune.mitigation.memory import by_row
from fairtune.usage import Output

Bools = NDArray[np.bool_]


def mistaken(logits: NDArray[np.float32], label: Ints) -> Bools:
    """Return `(n,)` whether the predicted class is not that of the row.

    Predicted is 1 where the one logit is above 0, or the first class with the largest logit.

    Args:
        logits: `(n, 1)`, or `(n, classes)`.
        label: `(n,)` class index.
    """
    several = logits.shape[1] > 1
    predicted = logits.argmax(axis=1) if several else (logits[:, 0] > 0).astype(np.int64)
    wrong: Bools = predicted != label
    return wrong


class Mistakes:
    """Weighs the rows that a first fit got wrong more than the others.

    Args:
        context: The run.
        upweight: Weight of such a row relative to another one.

    Raises:
        DataError: The labels are several targets.
    """

    def __init__(self, context: Context, upweight: float) -> None:
        self._context, self._upweight = context, upweight
        self._label, self._classes = context.classes("jtt")
        self.wrong: Bools | None = None
        self._look: Tensor | None = None

    def take(self, logits: NDArray[np.float32]) -> None:
        """Take in the `(n, outputs)` logits of the first fit."""
        self._know(mistaken(logits, self._label))

    def _know(self, wrong: Bools) -> None:
        weight = np.where(wrong, self._upweight, 1.0)
        self.wrong = wrong
        self._look = by_row(self._context, weight / weight.mean())

    def weights(self, batch: Batch, out: Output, first: bool) -> Tensor:
        """Return the `(b,)` weights of the samples."""
        assert self._look is not None
        return self._look[batch.row]

    def state(self) -> dict[str, Any]:
        """Return which rows were wrong, for `load_state`."""
        return {"wrong": None if self.wrong is None else torch.from_numpy(self.wrong)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the rows of an earlier attempt."""
        if state["wrong"] is not None:
            self._know(state["wrong"].numpy())

    def report(self) -> dict[str, Any]:
        """Return how many rows were wrong in all, by class, and by group of every attribute.

        `weight` is the share of the whole weight that wrong rows have: above one half they outvote
        the others.
        """
        if self.wrong is None:
            return {}
        every = np.ones_like(self.wrong)
        weight = np.where(self.wrong, self._upweight, 1.0)
        held = {"weight": float(weight[self.wrong].sum() / weight.sum())}
        found = {**self._counts(every), **held, "classes": {}, "groups": {}}
        for code in range(self._classes):
            found["classes"][str(code)] = self._counts(self._label == code)
        for column, (attribute, names) in enumerate(self._context.attributes.items()):
            group = self._context.group[:, column]
            found["groups"][attribute] = {
                name: self._counts(group == code) for code, name in enumerate(names)
            }
        return found

    def _counts(self, among: Bools) -> dict[str, Any]:
        assert self.wrong is not None
        rows, wrong = int(among.sum()), int((self.wrong & among).sum())
        return {"rows": rows, "wrong": wrong, "share": wrong / rows if rows else None}
