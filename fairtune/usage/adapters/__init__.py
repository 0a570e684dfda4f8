"""Adapters of frozen image-text models: small heads that start from what sentences say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from fairtune.config import Config, Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fairtune.usage import Question
    from fairtune.usage.nets.adapters import AdapterHead

ADAPTERS: Registry[Config] = Registry("adapter", "fairtune.usage.adapters")

VALIDATION = "validation"
"""Stands in place of a number that is chosen on validation rows."""

Mix = Mapping[str, float]
"""Numbers by which a head mixes what it learned with what the text says, by name."""


@runtime_checkable
class Adapter(Protocol):
    """A head on embeddings of images that are compared with classes in words.

    Attributes:
        paper: Where it was published.
        formula: What it does, in one line.
        refits: Whether the numbers that are mixed by take part in the fit.
        draws: Whether the head begins with training rows.
        steps: Most steps of a fit; one that has several minima is near one long before.
    """

    paper: ClassVar[str]
    formula: ClassVar[str]
    refits: ClassVar[bool]
    draws: ClassVar[bool]
    steps: ClassVar[int]

    @property
    def trains(self) -> bool:
        """Whether something of the head is trained."""
        ...

    @property
    def chooses(self) -> tuple[str, ...]:
        """Numbers that are chosen on validation rows."""
        ...

    @property
    def mixes(self) -> Sequence[Mix]:
        """What is chosen from, one alone where nothing is; the first of equals is taken."""
        ...

    @property
    def start(self) -> Mix:
        """What the head is trained at, where the fit is made before the choice."""
        ...

    def head(
        self, text: Tensor, scale: Tensor, question: Question, generator: torch.Generator
    ) -> AdapterHead:
        """Return the head before anything was fitted.

        Args:
            text: `(classes, d)` unit vectors of the classes in words.
            scale: Factor of cosines.
            question: Kind of label.
            generator: Source of weights that are drawn.
        """


def given(name: str, value: float | str, grid: Sequence[float]) -> list[dict[str, float]]:
    """Return what the number `name` may be: each of `grid` where validation chooses it."""
    return [{name: one} for one in (grid if isinstance(value, str) else (value,))]
