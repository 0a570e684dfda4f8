"""The loss of logits against labels, the same of every usage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fairtune.usage import Task

if TYPE_CHECKING:
    from torch import Tensor


def sample_loss(
    score: Tensor, label: Tensor, task: Task, class_weight: Tensor | None = None
) -> Tensor:
    """Return the `(batch,)` loss of logits `score` `(batch, outputs)` against `label`.

    With shares t and class weights w the loss is -sum_c w_c t_c log p_c over the classes of a
    multiclass task, and the mean over outputs of the same sum over 0 and 1 otherwise.

    Args:
        score: fp32 logits.
        label: `(batch,)` class index, `(batch, targets)` of 0/1 for multilabel, or for every
            task `(batch, outputs)` shares in floating point.
        task: Kind of label.
        class_weight: `(classes,)`, or `(2, outputs)` with the weights of 0 and of 1.
    """
    from torch.nn import functional

    if task == "multiclass":
        target = label if label.is_floating_point() else label.long()
        return functional.cross_entropy(score, target, class_weight, reduction="none")
    target = label.to(score.dtype).reshape(score.shape)
    if class_weight is not None:
        of_zero = class_weight[0] * (1 - target) * functional.softplus(score)
        of_one = class_weight[1] * target * functional.softplus(-score)
        return (of_zero + of_one).mean(dim=1)
    loss = functional.binary_cross_entropy_with_logits(score, target, reduction="none")
    return loss.mean(dim=1)
