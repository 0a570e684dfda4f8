"""The loss that an edit is learned by: what is hidden, what is kept, how large the edit is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from fairtune.editing.heads import Heads
from fairtune.editing.seen import Seen
from fairtune.usage import Task

if TYPE_CHECKING:
    from fairtune.editing.edits.dne import Dne


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of a batch, on the device.

    Attributes:
        image: `(b, c, side, side)` unedited, in [0, 1].
        group: `(b,)` codes; -1 where unknown.
        label: `(b,)` class codes, or `(b, targets)` of 0/1.
        weight: `(b, 1 or targets)` weights of the utility term.
    """

    image: Tensor
    group: Tensor
    label: Tensor
    weight: Tensor


def loss(rule: Dne, heads: Heads, part: Part, task: Task, embedding: Tensor) -> Tensor:
    """Return lambda_sa * objective + utility_weight * mean of w_i CE_i of an edited batch.

    The objective sees the rows of known group; without any it is 0.
    """
    own = None if heads.task is None else task_losses(heads.task(embedding), part.label, task)
    total = embedding.new_zeros(())
    known = part.group >= 0
    if rule.lambda_sa and bool(known.any()):
        total = total + rule.lambda_sa * rule.measured.loss(
            seen(heads, part, embedding, own, known)
        )
    if rule.utility_weight and own is not None:
        total = total + rule.utility_weight * (part.weight * own).mean()
    return total


def seen(heads: Heads, part: Part, embedding: Tensor, own: Tensor | None, known: Tensor) -> Seen:
    """Return what an objective sees of the rows `known`."""
    shown = embedding[known]
    logits = shown.new_empty(len(shown), 0)
    return Seen(
        logits=logits if heads.attribute is None else heads.attribute(shown),
        embedding=shown,
        group=part.group[known],
        label=part.label[known],
        task_loss=None if own is None else own[known].mean(dim=1),
    )


def task_losses(score: Tensor, label: Tensor, task: Task) -> Tensor:
    """Return `(batch, 1)` losses, `(batch, targets)` for several targets; unweighted."""
    if task == "multiclass":
        return functional.cross_entropy(score, label, reduction="none").unsqueeze(1)
    target = label.to(score.dtype).reshape(score.shape)
    return functional.binary_cross_entropy_with_logits(score, target, reduction="none")


def penalty(rule: Dne, full: Tensor) -> Tensor:
    """Return lambda_reg times the size of an edit at full size, in units of [0, 1].

    `rms2` is the mean square of a pixel, `l2` the norm, not squared, as published: it grows with
    the root of the number of pixels, and its gradient never fades as the edit does.
    """
    if not rule.lambda_reg:
        return full.new_zeros(())
    size = full.square().mean() if rule.regulariser == "rms2" else torch.linalg.vector_norm(full)
    return rule.lambda_reg * size
