"""What a mitigation may know of a run: its training rows, groups and sizes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairtune.data.batch import Batch
from fairtune.errors import DataError
from fairtune.evaluation.predictions import Attribute
from fairtune.usage import Task

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of an attribute, or of a crossing, among the rows a run is fitted on.

    Attributes:
        attribute: Its name, `age` or `age*sex`.
        names: Names of all groups, in the order of their codes.
        codes: `(n,)` group of every fitted row, -1 where unknown.
        columns: Columns of `Batch.group` that it is made of, each with its number of groups.
    """

    attribute: str
    names: tuple[str, ...]
    codes: Ints
    columns: tuple[tuple[int, int], ...]

    @cached_property
    def counts(self) -> Ints:
        """`(groups,)` fitted rows of each group."""
        known = self.codes[self.codes >= 0]
        return np.bincount(known, minlength=len(self.names)).astype(np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def of(self, batch: Batch) -> Tensor:
        """Return the `(b,)` group of every sample, -1 where unknown."""
        code = torch.zeros_like(batch.group[:, 0])
        known = torch.ones_like(code, dtype=torch.bool)
        for column, size in self.columns:
            part = batch.group[:, column]
            code = code * size + part
            known &= part >= 0
        return torch.where(known, code, -1)


@dataclass(frozen=True, eq=False)
class Context:
    """One run, as its mitigations see it before the first step.

    Attributes:
        label: `(n,)` class index, or `(n, targets)` of 0/1, of the rows it is fitted on.
        group: `(n, attributes)` group codes of these rows, -1 where unknown.
        row: `(n,)` their places in the pack.
        pack_rows: Rows of the pack.
        attributes: Names of the groups by attribute, in the order of the columns of `group`.
        task: Kind of label.
        outputs: Columns of the score.
        dim: Size of the embedding.
        epochs: Passes.
        head: The model's head, which is scored and stored.
        head_lr: Its peak learning rate.
        seed: For whatever a mitigation draws.
        device: Where batches are.
        free: Slots that no mitigation of the recipe takes.
        frozen: Whether nothing trains that embeddings go through, so that they never change.
    """

    label: Ints
    group: Ints
    row: Ints
    pack_rows: int
    attributes: Mapping[str, tuple[str, ...]]
    task: Task
    outputs: int
    dim: int
    epochs: int
    head: nn.Module
    head_lr: float
    seed: int
    device: torch.device
    free: frozenset[str]
    frozen: bool = False

    def groups(self, attribute: str | None) -> Groups:
        """Return the groups of an attribute, or of a crossing `A*B`.

        Raises:
            DataError: The fitted rows are in fewer than two of them.
        """
        order = list(self.attributes)
        parts = [order.index(part) for part in str(attribute).split("*")]
        single = [
            Attribute(order[i], self.attributes[order[i]], self.group[:, i].astype(np.int64))
            for i in parts
        ]
        crossed = functools.reduce(Attribute.cross, single)
        columns = tuple((i, one.size) for i, one in zip(parts, single))
        made = Groups(crossed.name, crossed.names, np.asarray(crossed.codes), columns)
        if int((made.counts > 0).sum()) < 2:
            raise DataError(
                "a mitigation needs training rows of at least two groups",
                where=f"attribute '{attribute}'",
                found={n: int(c) for n, c in zip(made.names, made.counts)}
                | {"unknown": int((made.codes < 0).sum())},
                todo="name another attribute, or leave the mitigation out",
            )
        return made

    def classes(self, method: str) -> tuple[Ints, int]:
        """Return the `(n,)` class of every fitted row and the number of classes.

        Raises:
            DataError: The labels are several targets.
        """
        if self.task == "multilabel":
            raise DataError(
                f"'{method}' needs one class for each row",
                found=f"{self.outputs} targets",
                todo="name one target of the data set, or act on groups alone",
            )
        return self.label, 2 if self.task == "binary" else self.outputs
