"""Bias-mitigation methods: one file per method, each builds Hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from fairtune.config import Config, Registry

if TYPE_CHECKING:
    from fairtune.mitigation.context import Context
    from fairtune.mitigation.hooks import Hooks

MITIGATIONS: Registry[Config] = Registry(
    "mitigation", "fairtune.mitigation.methods", also=("fairtune.compat.mitigations",)
)

SLOTS = ("sampler", "head", "step", "average")
"""What at most one mitigation of a recipe may take."""


@runtime_checkable
class Mitigation(Protocol):
    """A bias-mitigation method that acts while a model is trained. Its fields are what is tuned.

    Attributes:
        paper: Where it was published.
        formula: What it does, in one line.
        slots: What it takes of `SLOTS`, and no other mitigation may.
        trains: Whether it acts on training; one that does not acts on predictions.
        mixes: Whether it can work on samples that are mixed of two (mixup, CutMix).
        clashes: Names of mitigations that would count the same thing twice.
    """

    paper: ClassVar[str]
    formula: ClassVar[str]
    slots: ClassVar[tuple[str, ...]]
    trains: ClassVar[bool]
    mixes: ClassVar[bool]
    clashes: ClassVar[tuple[str, ...]]

    @property
    def idle(self) -> tuple[str, ...]:
        """Fields that do not act beside the values of the others."""

    def build(self, context: Context) -> Hooks:
        """Return what acts on one run.

        Raises:
            DataError: The training rows have nothing that the method could act on.
        """
