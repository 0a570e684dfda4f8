"""Tip-Adapter: training rows that stand for their classes, beside the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pydantic

from fairtune.config import Choice, Config, Float, Int
from fairtune.evaluation.objectives import ATTRIBUTE
from fairtune.usage.adapters import ADAPTERS, VALIDATION, Mix, given

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fairtune.usage import Question
    from fairtune.usage.nets.adapters import AdapterHead

ALPHAS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
BETAS = (1.0, 3.0, 5.5, 10.0, 30.0)
"""What validation chooses from; an alpha of 0 is zero-shot."""
PUBLISHED = {"alpha": 1.0, "beta": 5.5}
"""Of the authors' code."""

Positive = Annotated[float, pydantic.Field(gt=0)]
Name = Annotated[str, pydantic.Field(pattern=f"^{ATTRIBUTE.pattern}$")]


@ADAPTERS.register("tip_adapter")
class TipAdapter(Config):
    """z_c = s cos(x, t_c) + alpha * sum over cached rows i of class c of exp(-beta (1 - cos_i)).

    cos_i is the cosine of x with the embedding of training row i; t are the vectors of the text.
    Nothing is trained, unless `fine_tune` lets the embeddings of the cached rows train
    (Tip-Adapter-F), at the given alpha and beta, or the published 1 and 5.5 where validation
    chooses them afterwards. With several targets a row says of each whether it is there. The
    published code augments the cached images; here they are as they are.

    Attributes:
        shots: Most cached rows of a class; with several targets, of each answer.
        balance: `class`: as many rows of each class, if there are, in a random order; `both`: of
            each class, rows of its groups in turn; `none`: as many rows in all, classes as they
            come.
        attribute: Whose groups, with `both`; None for that of the first objective that compares
            groups. Rows of an unknown group are taken last.
        alpha: Weight of the cached rows; `validation`: chosen of 0, 0.1, 0.3, 1, 3 and 10.
        beta: How near a row must be to count; `validation`: chosen of 1, 3, 5.5, 10 and 30.
        fine_tune: Train the embeddings of the cached rows.
    """

    paper: ClassVar[str] = (
        "Zhang et al., Tip-Adapter: training-free adaption of CLIP for few-shot classification, "
        "ECCV 2022"
    )
    formula: ClassVar[str] = "z = s cos(x, t) + α · exp(-β (1 - cos(x, cached rows))) · labels"
    refits: ClassVar[bool] = False
    draws: ClassVar[bool] = True
    steps: ClassVar[int] = 300

    shots: Annotated[int, pydantic.Field(ge=1), Int(2, 64, log=True)] = 16
    balance: Annotated[Literal["none", "class", "both"], Choice(("class", "both"))] = "class"
    attribute: Name | None = None
    alpha: Annotated[Positive | Literal["validation"], Float(0.01, 10.0, log=True)] = 1.0
    beta: Annotated[Positive | Literal["validation"], Float(0.5, 30.0, log=True)] = 5.5
    fine_tune: Annotated[bool, Choice((False, True))] = False

    @pydantic.model_serializer(mode="wrap")
    def _write(self, fields: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = fields(self)
        if not self.grouped:
            del written["attribute"]
        return written

    @property
    def grouped(self) -> bool:
        """Whether rows are drawn by groups."""
        return self.balance == "both"

    @property
    def trains(self) -> bool:
        """Whether the cached embeddings train."""
        return self.fine_tune

    @property
    def chooses(self) -> tuple[str, ...]:
        """Alpha and beta, where nothing else says them."""
        return tuple(n for n in ("alpha", "beta") if getattr(self, n) == VALIDATION)

    @property
    def mixes(self) -> Sequence[Mix]:
        """Pairs of alpha and beta to choose from."""
        alphas, betas = given("alpha", self.alpha, ALPHAS), given("beta", self.beta, BETAS)
        return [alpha | beta for alpha in alphas for beta in betas]

    @property
    def start(self) -> Mix:
        """What is given, else what is published."""
        said = {"alpha": self.alpha, "beta": self.beta}
        return {n: PUBLISHED[n] if isinstance(v, str) else v for n, v in said.items()}

    def head(
        self, text: Tensor, scale: Tensor, question: Question, generator: torch.Generator
    ) -> AdapterHead:
        """Return the head with no row in it yet."""
        from fairtune.usage.nets.adapters import CacheHead

        return CacheHead(text, scale, question.task, self.shots, fine_tune=self.fine_tune)
