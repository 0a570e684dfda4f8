"""Fitting the heads of a search: on unedited embeddings first, then on edited ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fairtune.data.values import IntArray
from fairtune.editing.cohort import Cohort, sample
from fairtune.editing.edit import applied
from fairtune.editing.heads import Floats, Head, Heads, attribute_head, task_head

if TYPE_CHECKING:
    from fairtune.editing.edits.dne import Dne
    from fairtune.editing.scene import Scene

Told = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Fitting:
    """The rows that heads are fitted on.

    Attributes:
        rule: Says which heads there are.
        scene: The model.
        rows: The rows that the edit is learned on.
        weight: `(n, 1 or targets)` of the utility term.
    """

    rule: Dne
    scene: Scene
    rows: Cohort
    weight: Floats

    @property
    def wanted(self) -> bool:
        """Whether any head is."""
        return self.rule.reads_attribute or self.rule.reads_task

    @property
    def first_cost(self) -> int:
        """Queries of the first fit, as if no embedding had been kept."""
        return self._batches(len(self.rows)) if self.wanted else 0

    @property
    def cost(self) -> int:
        """Queries of a refit."""
        return self._batches(len(self._chosen(0)))

    def first(self, told: Told) -> Heads:
        """Return the heads of unedited images; `told` is called again and again."""
        if not self.wanted:
            return Heads()
        return self._fit(self.scene.features(self.rows.row), np.arange(len(self.rows)), told)

    def again(self, full: Tensor, number: int, told: Told) -> Heads:
        """Return the heads of images under an edit.

        Args:
            full: The edit at full size, on the device.
            number: Which refit, from 0: each draws its own rows.
            told: Called before every batch and while the heads are solved; may raise.
        """
        chosen = self._chosen(number)
        size, parts = self.rule.batch_size, list[Floats]()
        for i in range(0, len(chosen), size):
            told()
            image = self.scene.image(self.rows.row[chosen[i : i + size]])
            with torch.no_grad():
                found = self.scene.embed(applied(image, full, self.rule.clamp))
            parts.append(found.cpu().numpy().astype(np.float64))
        return self._fit(np.concatenate(parts), chosen, told)

    def _fit(self, features: Floats, at: IntArray, told: Told) -> Heads:
        rule, scene, rows = self.rule, self.scene, self.rows
        attribute = task = None
        if rule.reads_attribute:
            solved = attribute_head(features, rows.group[at], len(rows.names), rule.l2, told)
            attribute = Head.of(*solved, scene.device)
        if rule.reads_task:
            weight = self.weight[at] if rule.utility_weight else None
            label = rows.label[at]
            solved = task_head(features, label, scene.task, scene.outputs, rule.l2, weight, told)
            task = Head.of(*solved, scene.device)
        return Heads(attribute, task)

    def _chosen(self, number: int) -> IntArray:
        return sample(self._cells(), self.rule.refit_rows, number, self.rule.seed)

    def _cells(self) -> IntArray:
        group, label = self.rows.group + 1, self.rows.label
        return group if label.ndim > 1 else group * (int(label.max()) + 1) + label

    def _batches(self, rows: int) -> int:
        return -(-rows // self.rule.batch_size)
