"""Units of networks by their tensor names alone: a ViT of any depth, and an uneven network."""

from __future__ import annotations

from fairtune.models.partition import partition
from fairtune.models.spec import UnitNames
from fairtune.models.units import Units

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


def towers(image: int, text: int) -> Units:
    """The blocks of `vit` in two towers, those of the text a module deeper, and a scale of 1."""
    paths = {"image": "blocks", "text": "encoder.blocks"}
    tensors = [("logit_scale", 1)]
    for tower, depth in (("image", image), ("text", text)):
        units = vit(depth)
        tensors.append((f"{tower}.pos_embed", units.sizes["pos"]))
        inside = (name for name in units.names if name != "pos")
        tensors += [
            (f"{tower}.{name.replace('blocks', paths[tower], 1)}", units.sizes[name])
            for name in inside
        ]
    named = {tower: NAMES.model_copy(update={"blocks": path}) for tower, path in paths.items()}
    return partition(UnitNames(towers=named, singles={"logit_scale": ("logit_scale",)}), tensors)


def uneven() -> Units:
    """Four blocks of growing size; the first and third have no `expand`."""
    tensors = [("stem", 3)]
    for block in range(4):
        tensors.append((f"blocks.{block}.conv", 5 * (block + 1)))
        if block % 2:
            tensors.append((f"blocks.{block}.expand", 4 * (block + 1)))
    return partition(UNEVEN, tensors)
