"""Resampling: passes in which groups, classes, or both have the same share."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fairtune.config import Config
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.fields import Attribute, By

if TYPE_CHECKING:
    from fairtune.mitigation.context import Context
    from fairtune.mitigation.hooks import Hooks


@MITIGATIONS.register("resample")
class Resample(Config):
    """Draw the n samples of a pass with replacement, row i with chance w_i / sum w.

    w_i = 1 / (n of its cell), so that all cells with rows have the same share; a cell is a group,
    a class, or a class in a group. Rows of an unknown group keep their share of the passes.

    Attributes:
        attribute: Whose groups; not needed for `by: class`.
        by: What is made even.
    """

    paper: ClassVar[str] = (
        "Kamiran and Calders, Data preprocessing techniques for classification without "
        "discrimination, KAIS 2012; as in MEDFAIR, ICLR 2023"
    )
    formula: ClassVar[str] = "P(row) ∝ 1 / n of its group, class or both"
    slots: ClassVar[tuple[str, ...]] = ("sampler",)
    trains: ClassVar[bool] = True
    mixes: ClassVar[bool] = True
    clashes: ClassVar[tuple[str, ...]] = ("reweight",)

    attribute: Attribute = None
    by: By = "group"

    @property
    def idle(self) -> tuple[str, ...]:
        """Classes have no attribute."""
        return ("attribute",) if self.by == "class" else ()

    def build(self, context: Context) -> Hooks:
        """Return the sampler.

        Raises:
            DataError: Fewer than two groups, or several targets where classes are asked for.
        """
        from fairtune.mitigation.cells import cells
        from fairtune.mitigation.hooks import Hooks
        from fairtune.mitigation.sampling import drawn_by
        from fairtune.usage.weights import even

        return Hooks(sampler=drawn_by(even(*cells(context, self.attribute, self.by, "resample"))))
