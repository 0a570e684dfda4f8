"""Optimiser and learning-rate schedule of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import nn

from fairtune.models.net import of_head
from fairtune.models.units import Units
from fairtune.training.recipe_parts import OptimPart

_TINY = 1e-6
"""What torch adds to a norm before it divides by it."""


def build_optimizer(
    trained: dict[str, nn.Parameter],
    optim: OptimPart,
    exempt: Collection[str] = (),
    distances: Mapping[str, int] | None = None,
    beside: Sequence[tuple[float, Sequence[nn.Parameter]]] = (),
) -> torch.optim.Optimizer:
    """Return the optimiser with one group per learning rate and decay.

    The rate of a tensor at distance k from the head is `lr * layer_decay ** k` (layer-wise decay
    as in BEiT, Bao et al., ICLR 2022); the head keeps `head_lr`. Vectors (biases, gains, the scale
    of the logits) are never decayed; of matrices only what `exempt` names: positions and class
    token of an image tower, as timm has it. Those of a text tower, its word embeddings too, are
    decayed, as in CLIP.

    Args:
        trained: What trains, by name.
        optim: Learning rates and decay.
        exempt: Tensors that are never decayed, besides vectors.
        distances: What `distances_of` returned; needed for a `layer_decay` below 1.
        beside: Networks that train beside the model: peak learning rate and parameters.
    """

    def kind(name: str) -> tuple[bool, bool, int]:
        head = of_head(name)
        decays = trained[name].ndim > 1 and name not in exempt
        even = head or optim.layer_decay == 1 or distances is None
        return head, not decays, 0 if even or distances is None else distances[name]

    groups = [
        {
            "params": [trained[name] for name in trained if kind(name) == one],
            "lr": optim.head_lr if head else (optim.lr or 0.0) * optim.layer_decay**distance,
            "weight_decay": 0.0 if plain else optim.weight_decay,
        }
        for one in sorted({kind(name) for name in trained})
        for head, plain, distance in [one]
    ]
    for lr, parameters in beside:
        for plain in (False, True):
            held = [p for p in parameters if (p.ndim < 2) == plain]
            decay = 0.0 if plain else optim.weight_decay
            groups += [{"params": held, "lr": lr, "weight_decay": decay}] if held else []
    if optim.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=optim.head_lr, momentum=0.9, fused=True)
    return torch.optim.AdamW(groups, lr=optim.head_lr, fused=True)


def distances_of(names: Iterable[str], units: Units) -> dict[str, int]:
    """Return how many steps each tensor is away from the head.

    As in timm, the head is at 0, the last of D blocks with what stands behind it (the final norm)
    at 1, the first at D, and what stands before the blocks (stem, positions) at D + 1. A tensor
    that is none of the model's own and lies in no block is taken for one before the blocks.

    Of several towers each is counted by itself, with its own D; a projection to the joint space
    stands behind the blocks of its tower, and what is of none (the scale of the logits) at 0.
    """
    alone = (unit for unit in units.singles if unit not in units.entrance)
    behind = {tensor for unit in alone for tensor in units.parameters[unit]}

    def distance(name: str) -> int:
        tower, block = units.tower_of(name), units.depth_at(name)
        if of_head(name) or (units.towers and tower is None):
            return 0
        depth = units.below(units.path_in(tower))
        if block is not None:
            return depth - block
        return 1 if name in behind else depth + 1

    return {name: distance(name) for name in names}


def clip(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Scale gradients so that their joint L2 norm is at most `most`: bit for bit as torch does.

    Where it is already, torch multiplies by one. On a CPU asking costs nothing, and that product
    is a pass over all gradients; on an accelerator to ask would be to wait.
    """
    held = list(parameters)
    norm = nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])
    if norm.device.type != "cpu" or not most / (norm + _TINY) >= 1:
        nn.utils.clip_grads_with_norm_(held, most, norm)


def lr_factor(optim: OptimPart, steps_per_epoch: int) -> Callable[[int], float]:
    """Return step -> factor in [0, 1]: linear warm-up, then cosine to zero or constant."""
    total = steps_per_epoch * optim.epochs
    warm = int(optim.warmup * total)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        if optim.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))

    return factor
