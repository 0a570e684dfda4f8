"""Reweighting: a loss in which groups, classes, or both have the same say."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fairtune.config import Config
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.fields import Attribute, By

if TYPE_CHECKING:
    from fairtune.mitigation.context import Context
    from fairtune.mitigation.hooks import Hooks


@MITIGATIONS.register("reweight")
class Reweight(Config):
    """Multiply the loss of row i by w_i = n / (cells with rows * n of its cell), of mean 1.

    A cell is a group, a class, or a class in a group. Rows of an unknown group have weight 1.
    Kamiran and Calders weigh by P(A) P(Y) / P(A, Y), which leaves the shares of groups and of
    classes as they are and is not offered: even cells are what group metrics ask for.

    Attributes:
        attribute: Whose groups; not needed for `by: class`.
        by: What is made even.
    """

    paper: ClassVar[str] = (
        "Kamiran and Calders, Data preprocessing techniques for classification without "
        "discrimination, KAIS 2012; inverse frequencies as in Idrissi et al., CLeaR 2022"
    )
    formula: ClassVar[str] = "loss of a row * n / (cells * n of its cell)"
    slots: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = True
    mixes: ClassVar[bool] = True
    clashes: ClassVar[tuple[str, ...]] = ("resample",)
    excludes: ClassVar[tuple[str, ...]] = ("class_weights",)

    attribute: Attribute = None
    by: By = "group"

    @property
    def idle(self) -> tuple[str, ...]:
        """Classes have no attribute."""
        return ("attribute",) if self.by == "class" else ()

    def build(self, context: Context) -> Hooks:
        """Return the weights.

        Raises:
            DataError: Fewer than two groups, or several targets where classes are asked for.
        """
        from fairtune.mitigation.cells import cells
        from fairtune.mitigation.hooks import Hooks
        from fairtune.mitigation.memory import by_row
        from fairtune.usage.weights import even

        weight = even(*cells(context, self.attribute, self.by, "reweight"))
        look = by_row(context, weight)
        return Hooks(weights=lambda batch, out, first: look[batch.row])
