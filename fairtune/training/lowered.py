"""Frozen weights rounded to bf16 once, instead of in every step.

Autocast rounds the weights of linear layers and convolutions whenever they are used, and keeps the
result only for weights that train. What is frozen is therefore handed over rounded: bit for bit
what autocast would have made of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from fairtune.models.net import Net, of_head

if TYPE_CHECKING:
    from fairtune.training.ground import Ground

_ROUNDED = (nn.Linear, nn.Conv2d)


def lower(net: Net, trained: Iterable[str], ground: Ground) -> None:
    """Put bf16 copies, shared by all runs, in place of frozen weights that autocast rounds.

    A net to which a method has added parameters is left as it is: the method may compute with
    the frozen weights themselves.
    """
    shared = ground.backbone.net
    known = set(ground.backbone.tensors())
    if not all(name in known or of_head(name) for name in trained):
        return
    originals = dict(shared.named_modules())
    for path, module in net.backbone.net.named_modules():
        original = originals.get(path)
        if original is None or type(module) not in _ROUNDED or type(original) is not type(module):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            # The very same object: frozen, and none of this run's own.
            if parameter is getattr(original, name):
                setattr(module, name, _copy(f"{path}.{name}", parameter, ground))


def _copy(name: str, parameter: nn.Parameter, ground: Ground) -> nn.Parameter:
    if name not in ground.lowered:
        rounded = parameter.detach().to(torch.bfloat16)
        ground.lowered[name] = nn.Parameter(rounded, requires_grad=False)
    return ground.lowered[name]
