"""LAFTR: an embedding from which an adversary cannot tell the group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.mitigation import MITIGATIONS
from fairtune.mitigation.fields import Attribute

if TYPE_CHECKING:
    from fairtune.mitigation.context import Context
    from fairtune.mitigation.hooks import Hooks


@MITIGATIONS.register("laftr")
class Laftr(Config):
    """Train L - weight * L_adv, and beside it an adversary that lowers L_adv.

    The adversary d, one hidden layer, tells the group from the embedding z:
    L_adv = (1/C) sum_c E_c[1 - p_d(g | z)] over the cells c, which are groups for `dp`, groups
    within each class for `eqodd` (d then sees the class too), groups among the positives for
    `eqopp`. With two groups this is the group-normalised L1 loss |a - d(z)| of the paper. The
    expectations are weighted by 1 / P(c) of the training rows, not of the batch. Both sides step
    at once through a reversed gradient; the paper alternates. Unknown groups do not count.

    Attributes:
        attribute: Whose groups.
        constraint: What is to be independent of the group: the embedding (`dp`), the embedding
            given the class (`eqodd`), that of positives (`eqopp`).
        weight: Factor of the adversary's gradient in the embedding.
        hidden: Width of the adversary.
        lr: Peak learning rate of the adversary.
    """

    paper: ClassVar[str] = (
        "Madras et al., Learning adversarially fair and transferable representations, ICML 2018"
    )
    formula: ClassVar[str] = "L - λ · group-normalised loss of an adversary on the embedding"
    slots: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = True
    mixes: ClassVar[bool] = False
    clashes: ClassVar[tuple[str, ...]] = ()

    attribute: Attribute = None
    constraint: Annotated[Literal["dp", "eqodd", "eqopp"], Choice(("dp", "eqodd", "eqopp"))] = (
        "eqodd"
    )
    weight: Annotated[float, pydantic.Field(gt=0), Float(0.01, 5.0, log=True)] = 1.0
    hidden: Annotated[int, pydantic.Field(ge=1)] = 128
    lr: Annotated[float, pydantic.Field(gt=0)] = 1e-3

    @property
    def idle(self) -> tuple[str, ...]:
        """Every field acts."""
        return ()

    def build(self, context: Context) -> Hooks:
        """Return the adversary and its term.

        Raises:
            DataError: Fewer than two groups, several targets where classes are asked for, more
                than two classes for `eqopp`, or embeddings that do not train.
        """
        from fairtune.mitigation.adversary import adversary
        from fairtune.mitigation.hooks import Hooks

        term, network = adversary(
            context, self.attribute, self.constraint, self.weight, self.hidden
        )
        return Hooks(loss=term, modules={"adversary": network}, lr=self.lr)
