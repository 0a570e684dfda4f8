"""Group DRO: the loss of the groups, weighted towards the ones that are served worst."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.fields import Attribute

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from fairtune.data.batch import Batch
    from fairtune.mitigation.context import Context
    from fairtune.mitigation.hooks import Hooks
    from fairtune.usage import Output


@MITIGATIONS.register("group_dro")
class GroupDro(Config):
    """Train sum_g q_g L_g with q_g <- q_g exp(eta (L_g + C / sqrt(n_g))), normalised.

    L_g is the mean loss of group g in the batch and n_g its training rows; q starts even, is
    updated before it weighs the step, and keeps the share of a group that is not in the batch, as
    published. Samples of an unknown group keep their part of the mean loss and have no q.

    Attributes:
        attribute: Whose groups.
        by: Groups, or each class in each group (as in the paper).
        eta: Step size of q.
        adjustment: C, which raises the loss of small groups; 0 for none.
    """

    paper: ClassVar[str] = (
        "Sagawa et al., Distributionally robust neural networks for group shifts, ICLR 2020"
    )
    formula: ClassVar[str] = "Σ q_g L_g, q_g ∝ q_g exp(η (L_g + C/√n_g))"
    slots: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = True
    mixes: ClassVar[bool] = False
    clashes: ClassVar[tuple[str, ...]] = ("reweight",)

    attribute: Attribute = None
    by: Annotated[Literal["group", "both"], Choice(("group", "both"))] = "group"
    eta: Annotated[float, pydantic.Field(gt=0, le=10), Float(1e-3, 1.0, log=True)] = 0.01
    adjustment: Annotated[float, pydantic.Field(ge=0)] = 0.0

    @property
    def idle(self) -> tuple[str, ...]:
        """Every field acts."""
        return ()

    def build(self, context: Context) -> Hooks:
        """Return the weights of the samples.

        Raises:
            DataError: Fewer than two groups, or several targets with `by: both`.
        """
        import numpy as np
        import torch

        from fairtune.mitigation.cells import cell_names, cells
        from fairtune.mitigation.hooks import Hooks
        from fairtune.mitigation.memory import by_row

        cell, count = cells(context, self.attribute, self.by, "group_dro")
        sizes = np.bincount(cell[cell >= 0], minlength=count)
        raised = np.where(sizes > 0, self.adjustment / np.sqrt(np.maximum(sizes, 1)), 0.0)
        start = torch.from_numpy((sizes > 0) / (sizes > 0).sum()).float().to(context.device)
        look = by_row(context, cell.astype(float), rest=-1).long()
        names = cell_names(context, self.attribute, self.by)
        dro = _Dro(start, torch.from_numpy(raised).float().to(context.device), self.eta, look)

        def report() -> dict[str, Any]:
            return {"q": dict(zip(names, dro.q.tolist()))}

        return Hooks(
            weights=dro.weights, state=dro.state, load_state=dro.load_state, report=report
        )


class _Dro:
    """The weights q of the cells.

    Args:
        start: `(cells,)` where they start, 0 for cells without rows.
        raised: `(cells,)` what is added to the loss of each.
        eta: Step size.
        look: `(rows of the pack,)` cell of every row, -1 for none.
    """

    def __init__(self, start: Tensor, raised: Tensor, eta: float, look: Tensor) -> None:
        self.q, self._raised, self._eta, self._look = start, raised, eta, look

    def weights(self, batch: Batch, out: Output, first: bool) -> Tensor:
        """Return `(b,)` factors that make the mean loss sum_g q_g L_g; a first look moves q."""
        import torch
        from torch.nn import functional

        cell = self._look[batch.row]
        known = cell >= 0
        member = functional.one_hot(cell.clamp(min=0), len(self.q)).float() * known[:, None]
        inside = member.sum(dim=0)
        mean = (out.loss.detach() @ member) / inside.clamp(min=1)
        if first:
            grown = self.q * torch.exp(self._eta * (mean + self._raised * (inside > 0)))
            self.q = grown / grown.sum()
        share = self.q * known.sum() / inside.clamp(min=1)
        return torch.where(known, member @ share, 1.0)

    def state(self) -> dict[str, Any]:
        """Return q."""
        return {"q": self.q}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take q back."""
        self.q = state["q"].to(self.q.device)
