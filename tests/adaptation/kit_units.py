"""Units of networks by their tensor names alone: a ViT of any depth, and an uneven network."""

from __future__ import annotations

from fairtune.models.spec import UnitNames
from fairtune.models.units import Units, partition

NAMES = UnitNames(
    blocks="blocks",
    types={
        "norm1": ("norm1",),
        "norm2": ("norm2",),
        "norm": ("norm1", "norm2"),
        "attn": ("attn",),
        "mlp": ("mlp",),
        "block": ("*",),
    },
    singles={"pos": ("pos_embed",)},
)
SIZES = {"norm1": 2, "attn": 12, "norm2": 2, "mlp": 24}
UNEVEN = UnitNames(
    blocks="blocks",
    types={"expand": ("expand",), "conv": ("conv",), "block": ("*",)},
    singles={"stem": ("stem",)},
)


def vit(depth: int) -> Units:
    """Blocks of 40 parameters, a third of them weights of attention, and 10 outside."""
    tensors = [("pos_embed", 10)]
    for block in range(depth):
        tensors += [(f"blocks.{block}.{part}.weight", size) for part, size in SIZES.items()]
    return partition(NAMES, tensors)


def uneven() -> Units:
    """Four blocks of growing size; the first and third have no `expand`."""
    tensors = [("stem", 3)]
    for block in range(4):
        tensors.append((f"blocks.{block}.conv", 5 * (block + 1)))
        if block % 2:
            tensors.append((f"blocks.{block}.expand", 4 * (block + 1)))
    return partition(UNEVEN, tensors)
