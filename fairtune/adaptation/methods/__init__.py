"""Adaptation methods: how the units of a mask train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from fairtune.config import Config, Registry

if TYPE_CHECKING:
    from fairtune.adaptation.attach import Attached, Context

METHODS: Registry[Config] = Registry("adaptation method", "fairtune.adaptation.methods")


@runtime_checkable
class Method(Protocol):
    """How the units of one placement train. A member's fields are its hyper-parameters.

    Attributes:
        paper: Where it was published.
        formula: What a layer computes.
        layers: What it acts on.
        merges: Whether it can be folded into plain weights.
        starts_unchanged: Whether the network computes the same before the first step.
    """

    paper: ClassVar[str]
    formula: ClassVar[str]
    layers: ClassVar[str]
    merges: ClassVar[bool]
    starts_unchanged: ClassVar[bool]

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Make `units` of the network in `context` train this way; return what trains.

        New tensors are float32, drawn from torch's generator, on the device of their layer. No
        frozen tensor is copied or written.

        Raises:
            ModelError: A layer is not supported, or nothing is left to train.
        """
