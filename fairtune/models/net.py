"""A backbone with the head that a usage puts on it."""

from __future__ import annotations

from typing import Any

from torch import nn

from fairtune.models.backbone import Backbone


def of_head(name: str) -> bool:
    """Return whether a trained tensor is the head's: `head.weight`, not a `head.norm.weight`.

    Some architectures (ConvNeXt) call `head` what holds their last norm, a unit as any other.
    """
    path, _, _ = name.rpartition(".")
    return path == "head"


class Net(nn.Module):
    """What is trained.

    Attributes:
        backbone: Gives `(batch, dim)` features.
        head: Turns features into `(batch, outputs)` logits.
        attached: The adaptation methods at work on the backbone.
    """

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.attached: tuple[Any, ...] = ()
