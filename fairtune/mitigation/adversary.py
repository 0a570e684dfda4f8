"""An adversary that tells groups from embeddings, and the term that keeps it from it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtune.data.batch import Batch
from fairtune.errors import DataError
from fairtune.mitigation.context import Context
from fairtune.mitigation.hooks import Look
from fairtune.mitigation.memory import by_row
from fairtune.usage import Output
from fairtune.usage.weights import even


class _Reversed(torch.autograd.Function):
    """The identity, with a gradient that is multiplied by -factor."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        """Return `value`."""
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient, reversed."""
        return -ctx.factor * gradients[0], None


def reversed_gradient(value: Tensor, factor: float) -> Tensor:
    """Return `value`, whose gradient is multiplied by `-factor` (Ganin et al., JMLR 2016)."""
    found: Tensor = _Reversed.apply(value, factor)
    return found


def adversary(
    context: Context,
    attribute: str | None,
    constraint: Literal["dp", "eqodd", "eqopp"],
    weight: float,
    hidden: int,
) -> tuple[Look, nn.Module]:
    """Return the term of `Laftr`, and the network that is trained beside the model.

    The term's value is `weight * L_adv`; the gradient of the network is that of L_adv, that of
    the embedding that of -`weight * L_adv`.

    Raises:
        DataError: See `Laftr.build`.
    """
    if context.frozen:
        raise DataError(
            "laftr changes the embedding, which an empty mask, or one of texts alone, does not",
            where="recipe.mitigations.laftr",
            todo="give a mask with units of the image's network, or leave laftr out",
        )
    groups = context.groups(attribute)
    classes = 0
    cell, count = groups.codes, len(groups)
    if constraint != "dp":
        label, classes = context.classes("laftr")
        if constraint == "eqopp" and context.task != "binary":
            raise DataError(
                "eqopp is about positives, and this target has several classes",
                where="recipe.mitigations.laftr.constraint",
                found=f"{classes} classes",
                allowed=["dp", "eqodd"],
            )
        if constraint == "eqodd":
            cell, count = np.where(cell < 0, -1, cell * classes + label), count * classes
        else:
            cell = np.where(label == 1, cell, -1)
            classes = 0
    # Rows of no cell count nothing, the others as the inverse share of their cell.
    share = np.where(cell < 0, 0.0, even(cell, count) * len(cell) / max((cell >= 0).sum(), 1))
    look = by_row(context, share, rest=0.0)
    network = nn.Sequential(
        nn.Linear(context.dim + classes, hidden), nn.ReLU(), nn.Linear(hidden, len(groups))
    )

    def term(batch: Batch, out: Output, first: bool) -> Tensor:
        seen = reversed_gradient(out.embedding.float(), weight)
        if classes:
            seen = torch.cat([seen, functional.one_hot(batch.label.long(), classes).float()], 1)
        chance = network(seen).softmax(dim=1)
        own = chance.gather(1, groups.of(batch).clamp(min=0).long()[:, None])[:, 0]
        loss: Tensor = (look[batch.row] * (1 - own)).mean()
        return loss + ((weight - 1) * loss).detach()

    return term, network
