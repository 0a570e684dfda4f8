"""CLIP-Adapter: a small network beside the image's embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.usage.adapters import ADAPTERS, VALIDATION, Mix, given

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fairtune.usage import Question
    from fairtune.usage.nets.adapters import AdapterHead

GRID = (0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the network that validation chooses from."""

Share = Annotated[float, pydantic.Field(gt=0, le=1)]


@ADAPTERS.register("clip_adapter")
class ClipAdapter(Config):
    """z_c = s cos(r relu(V relu(U x)) + (1 - r) x, t_c), t the vectors of the text.

    U has d / reduction rows. There are no biases, so the length of x does not matter. The paper
    adds an adapter on the side of the text too, and finds that it adds little to this one.

    Attributes:
        ratio: r, the share of the network; `validation`: the one of 0.1, 0.2, 0.4, 0.6 and 0.8,
            each with a network of its own, of least validation loss.
        reduction: How many times fewer values the network has in its middle.
    """

    paper: ClassVar[str] = (
        "Gao et al., CLIP-Adapter: better vision-language models with feature adapters, IJCV 2024"
    )
    formula: ClassVar[str] = "z_c = s cos(r MLP(x) + (1 - r) x, t_c)"
    refits: ClassVar[bool] = True
    draws: ClassVar[bool] = False
    steps: ClassVar[int] = 100

    ratio: Annotated[Share | Literal["validation"], Float(0.05, 0.9)] = 0.2
    reduction: Annotated[int, pydantic.Field(ge=1), Choice((2, 4, 8))] = 4

    @property
    def trains(self) -> bool:
        """The network trains."""
        return True

    @property
    def chooses(self) -> tuple[str, ...]:
        """The share, where nothing else says it."""
        return ("ratio",) if self.ratio == VALIDATION else ()

    @property
    def mixes(self) -> Sequence[Mix]:
        """Shares to choose from."""
        return given("ratio", self.ratio, GRID)

    @property
    def start(self) -> Mix:
        """The first of the shares; each has a fit of its own."""
        return self.mixes[0]

    def head(
        self, text: Tensor, scale: Tensor, question: Question, generator: torch.Generator
    ) -> AdapterHead:
        """Return the head with a network that is drawn."""
        from fairtune.usage.nets.adapters import NetworkHead

        return NetworkHead(text, scale, question.task, self.reduction, generator)
