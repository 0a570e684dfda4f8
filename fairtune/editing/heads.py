"""The heads that an edit is learned against: what reads the attribute, and what reads the label.

Both are linear and solved to their optimum on embeddings (`usage.readout`), so that they depend on
rows and edit alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairtune.data.values import IntArray
from fairtune.editing.cohort import Cohort
from fairtune.usage import Task, readout
from fairtune.usage.weights import even

Floats = NDArray[np.float64]
Told = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head.

    Attributes:
        weight: `(outputs, dim)` fp32.
        bias: `(outputs,)`.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, embedding: Tensor) -> Tensor:
        """Return logits `(batch, outputs)` of embeddings `(batch, dim)`; differentiable."""
        return embedding @ self.weight.T + self.bias

    @classmethod
    def of(cls, weight: Floats, bias: Floats, device: torch.device | str = "cpu") -> Head:
        """Return the head of a solved readout."""
        both = [torch.from_numpy(part.astype(np.float32)).to(device) for part in (weight, bias)]
        return cls(*both)


@dataclass(frozen=True, eq=False)
class Heads:
    """What an edit is learned against; None where nothing asks for it."""

    attribute: Head | None = None
    task: Head | None = None

    def state(self) -> dict[str, Tensor]:
        """Return the tensors, by name."""
        held = {"attribute": self.attribute, "task": self.task}
        parts = {name: head for name, head in held.items() if head is not None}
        return {
            f"{name}.{part}": getattr(head, part)
            for name, head in parts.items()
            for part in ("weight", "bias")
        }

    @classmethod
    def restore(cls, state: Mapping[str, Tensor], device: torch.device) -> Heads:
        """Return the heads that `state` is of."""
        found = {
            name: Head(*(state[f"{name}.{part}"].to(device) for part in ("weight", "bias")))
            for name in ("attribute", "task")
            if f"{name}.weight" in state
        }
        return cls(found.get("attribute"), found.get("task"))


def attribute_head(
    features: Floats, group: IntArray, groups: int, l2: float, told: Told = lambda: None
) -> tuple[Floats, Floats]:
    """Return weight and bias of the softmax over groups, fitted on the rows of known group.

    Args:
        features: `(n, dim)` embeddings.
        group: `(n,)` codes; rows of -1 are left out.
        groups: Number of groups.
        l2: Penalty on the weights of standardised features.
        told: Called before every look at the features; may raise.
    """
    known = group >= 0
    weight, bias, _ = readout.fit(
        features[known], group[known], "multiclass", groups, l2, told=told
    )
    return weight, bias


def task_head(
    features: Floats,
    label: IntArray,
    task: Task,
    outputs: int,
    l2: float,
    sample_weight: Floats | None,
    told: Told = lambda: None,
) -> tuple[Floats, Floats]:
    """Return weight and bias of the head that reads the label.

    Args:
        features: `(n, dim)` embeddings.
        label: `(n,)` class codes, or `(n, targets)` of 0/1.
        task: Kind of label.
        outputs: Columns of the score.
        l2: Penalty; of several targets that of their mean loss.
        sample_weight: `(n, 1)`, or `(n, targets)` for several targets; None for ones.
        told: Called before every look at the features; may raise.
    """
    if task != "multilabel" or sample_weight is None:
        weights = None if sample_weight is None else sample_weight[:, 0]
        weight, bias, _ = readout.fit(
            features, label, task, outputs, l2, sample_weight=weights, told=told
        )
        return weight, bias
    # Targets have weights of their own; the mean over them falls apart into one problem each.
    parts = [
        readout.fit(
            features,
            label[:, j],
            "binary",
            1,
            l2 * outputs,
            sample_weight=sample_weight[:, j],
            told=told,
        )
        for j in range(outputs)
    ]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def utility_weights(rows: Cohort) -> Floats:
    """Return the weights of the utility term: every class of every group has the same say.

    w_i = 1 / (K C P(y_i, a_i)), of mean 1; rows of an unknown group have weight 1.

    Returns:
        `(n, 1)`, or `(n, targets)`, each target with its own two classes.
    """
    labels = rows.label.reshape(len(rows), -1)
    classes = int(labels.max()) + 1 if labels.size else 1
    cells = np.where(rows.group[:, None] < 0, -1, rows.group[:, None] * classes + labels)
    return np.stack([even(cell) for cell in cells.T], axis=1)
