"""Stochastic weight averaging, densely, in a valley of the validation loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.mitigation import MITIGATIONS

if TYPE_CHECKING:
    from fairtune.mitigation.context import Context
    from fairtune.mitigation.hooks import Hooks


@MITIGATIONS.register("swad")
class Swad(Config):
    """Score and store the mean of the weights after every step from pass t_s to pass t_e.

    With L_s the validation loss of the weights after pass s, t_s is the first pass whose loss is
    the least of the `converge` passes from it on, and l = (1 + ratio) * the mean of these. The
    valley is closed once `tolerance` passes in a row are above l; t_e is the last pass not above
    l. Every epoch's scores are those of the model that would be kept if it were the last one: of
    the mean so far, and, as in the authors' `get_final_model`, of the mean over the last pass as
    long as no valley has opened. Fewer epochs than `converge` never open one.

    Deviations: the loss is looked at once a pass, where the paper looks every some hundred steps,
    so that few epochs give few looks and t_s, t_e are ends of passes. Whole passes are averaged,
    including the one that ends at the least loss, as in the authors' code; their code besides
    counts some passes several times, drops the first of them, and may begin before t_s, where
    Algorithm 1 of the paper, which is followed here, does not. MEDFAIR follows 1 - worst-group AUC
    in place of the loss. The paper keeps the learning rate constant (`schedule: constant`).

    Attributes:
        converge: N_s, passes without a lower loss after which the valley opens.
        tolerance: N_e, passes in a row above l after which it is closed.
        ratio: r, by how much l is above the mean loss; the authors' 0.3, MEDFAIR has 0.05.
    """

    paper: ClassVar[str] = (
        "Cha et al., SWAD: Domain Generalization by Seeking Flat Minima, NeurIPS 2021; "
        "as in MEDFAIR, ICLR 2023"
    )
    formula: ClassVar[str] = "w = mean of w_i over all steps i in the valley of the loss"
    slots: ClassVar[tuple[str, ...]] = ("average",)
    trains: ClassVar[bool] = True
    mixes: ClassVar[bool] = True
    clashes: ClassVar[tuple[str, ...]] = ()
    costs: ClassVar[str] = "validation rows are scored twice after every pass"
    follows: ClassVar[bool] = True

    converge: Annotated[int, pydantic.Field(ge=1), Choice((2, 3, 5))] = 3
    tolerance: Annotated[int, pydantic.Field(ge=1), Choice((3, 6, 9))] = 6
    ratio: Annotated[float, pydantic.Field(ge=0), Float(0.01, 0.5)] = 0.3

    @property
    def idle(self) -> tuple[str, ...]:
        """All fields always act."""
        return ()

    def build(self, context: Context) -> Hooks:
        """Return the average."""
        from fairtune.mitigation.hooks import Hooks
        from fairtune.mitigation.valley import Valley

        valley = Valley(self.converge, self.tolerance, self.ratio)
        return Hooks(average=valley.begin, report=valley.report)
