"""Classes as vectors that start at what their sentences say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from fairtune.config import Config
from fairtune.usage.adapters import ADAPTERS, Mix

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fairtune.usage import Question
    from fairtune.usage.nets.adapters import AdapterHead


@ADAPTERS.register("prototypes")
class Prototypes(Config):
    """z_c = s cos(x, w_c); the vectors w_c start at those of the text and train.

    It is the usage `clip-adapt` of FairMedFM. There plain SGD runs for some epochs and nothing
    holds the vectors; here the penalty `optim.l2` draws the logits towards zero-shot.
    """

    paper: ClassVar[str] = "Jin et al., FairMedFM, NeurIPS 2024"
    formula: ClassVar[str] = "z_c = s cos(x, w_c), w_c from the text's vector on"
    refits: ClassVar[bool] = False
    draws: ClassVar[bool] = False
    steps: ClassVar[int] = 1000

    @property
    def trains(self) -> bool:
        """The vectors train."""
        return True

    @property
    def chooses(self) -> tuple[str, ...]:
        """Nothing is chosen."""
        return ()

    @property
    def mixes(self) -> Sequence[Mix]:
        """Nothing is mixed."""
        return ({},)

    @property
    def start(self) -> Mix:
        """Nothing is mixed."""
        return {}

    def head(
        self, text: Tensor, scale: Tensor, question: Question, generator: torch.Generator
    ) -> AdapterHead:
        """Return the head with the text's vectors."""
        from fairtune.usage.nets.adapters import PrototypeHead

        return PrototypeHead(text, scale, question.task)
