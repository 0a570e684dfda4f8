"""Where a network can be cut in two: the stem with the first blocks, and the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Through = Callable[..., Tensor]
"""Computes a block: `(block, hidden, **positions)` -> what stands behind it."""

# Modules that act after the last block; whatever is neither these nor a block acts before.
_TAIL = frozenset({"norm", "fc_norm", "attn_pool", "head_drop", "head", "head_dist", "projection"})
_PATH = "blocks"


@runtime_checkable
class Cuttable(Protocol):
    """An image tower of its own kind that can be cut behind its blocks.

    Its `forward_features` is `leave(blocks(enter(image)))`, no more.

    Attributes:
        blocks: They, in their order.
        blocks_path: Where they lie in the tower.
        tail: Paths of what acts after the last block.
        given: What every block is called with besides the tokens.
    """

    blocks_path: str
    tail: frozenset[str]
    given: Mapping[str, Any]

    @property
    def blocks(self) -> nn.ModuleList:
        """See the class."""
        ...

    def enter(self, image: Tensor) -> Tensor:
        """Return the tokens `(batch, tokens, dim)` before the first block."""
        ...

    def leave(self, hidden: Tensor) -> Tensor:
        """Return the features of what stands behind the last block."""
        ...


def whole(net: Cuttable, image: Tensor) -> Tensor:
    """Return the features `(batch, tokens, dim)` of images."""
    return net.leave(_blocks(net, net.enter(image), 0, len(net.blocks)))


def depth(net: nn.Module) -> int:
    """Return the number of blocks that `net` can be cut behind; 0 when it cannot be cut.

    Cut are the vision transformers of timm (ViT, DeiT, DINOv2, MAE, CLIP towers, EVA) and the
    `Cuttable`, alone or as the image tower of a network of several. A network whose pass through
    the blocks is not the family's own counts as one that cannot.
    """
    net = image_of(net)
    if isinstance(net, Cuttable):
        return len(net.blocks)
    # Looking at a network must not cost the import of a library that has not built it.
    from timm.models.vision_transformer import VisionTransformer

    own = getattr(type(net), "forward_features", None)
    plain = own is VisionTransformer.forward_features
    rotary = _is_eva(net) and not net.dynamic_img_size
    return len(net.blocks) if plain or rotary else 0  # type: ignore[arg-type]


def front(net: Any, image: Tensor, cut: int) -> Tensor:
    """Return what stands before block `cut`, `(batch, tokens, dim)` for a vision transformer."""
    net = image_of(net)
    if isinstance(net, Cuttable):
        return _blocks(net, net.enter(image), 0, cut)
    x: Any = net._pos_embed(net.patch_embed(image))
    x = x[0] if _is_eva(net) else net.patch_drop(x)
    return _blocks(net, net.norm_pre(x), 0, cut)


def rest(
    net: Any,
    hidden: Tensor,
    cut: int,
    *,
    checkpointing: bool = False,
    through: Through | None = None,
) -> Tensor:
    """Return the features `(batch, tokens, dim)` that `hidden` before block `cut` leads to.

    With `checkpointing` the backward pass computes the inside of each block again; `through`
    computes the blocks, by default by calling them.
    """
    net = image_of(net)
    last = len(net.blocks)
    made = _blocks(net, hidden, cut, last, again=checkpointing, through=through)
    features: Tensor = net.leave(made) if isinstance(net, Cuttable) else net.norm(made)
    return features


def image_of(net: Any) -> Any:
    """Return the image tower of a network of several, any other network itself."""
    held = getattr(net, "image", None)
    return held if isinstance(held, nn.Module) else net


def first_trained(net: nn.Module) -> int:
    """Return the first block of the image tower with a tensor that requires a gradient.

    0 stands for the stem and for a network that cannot be cut, `depth(net)` for one of which
    only what follows the blocks trains, or nothing.
    """
    lowest = blocks = depth(net)
    for name, parameter in image_of(net).named_parameters():
        if parameter.requires_grad:
            place = _place(net, name, blocks)
            if place is None:
                return 0
            lowest = min(lowest, place)
    return lowest


def before(net: nn.Module, cut: int) -> dict[str, Tensor]:
    """Return every tensor, buffers included, that `front(net, ..., cut)` depends on, by name.

    Names are those in the image tower.
    """
    blocks = depth(net)
    return {
        name: tensor
        for name, tensor in image_of(net).state_dict().items()
        if (place := _place(net, name, blocks)) is None or place < cut
    }


def _place(net: nn.Module, name: str, blocks: int) -> int | None:
    tower = image_of(net)
    path, tail = (tower.blocks_path, tower.tail) if isinstance(tower, Cuttable) else (_PATH, _TAIL)
    if name.startswith(f"{path}."):
        return int(name.removeprefix(f"{path}.").split(".")[0])
    after = any(name == held or name.startswith(f"{held}.") for held in tail)
    return blocks if after else None


def _blocks(
    net: Any,
    x: Tensor,
    start: int,
    end: int,
    *,
    again: bool = False,
    through: Through | None = None,
) -> Tensor:
    given, act = _given(net), through or _called
    for i in range(start, end):
        block, more = net.blocks[i], given(i)
        if again and torch.is_grad_enabled():
            x = checkpoint(act, block, x, use_reentrant=False, **more)
        else:
            x = act(block, x, **more)
    return x


def _called(block: nn.Module, x: Tensor, **more: Any) -> Tensor:
    out: Tensor = block(x, **more)
    return out


def _given(net: Any) -> Callable[[int], Mapping[str, Any]]:
    """Return what each block is called with besides the tokens: of EVA, rotary positions."""
    if isinstance(net, Cuttable):
        given = net.given
        return lambda block: given
    if not _is_eva(net) or net.rope is None:
        return lambda block: {}
    shape = {} if hasattr(net.rope, "feat_shape") else {"shape": net.patch_embed.grid_size}
    embedding: Tensor = net.rope.get_embed(**shape)
    mixed = getattr(net, "rope_mixed", False)
    return lambda block: {"rope": embedding[block] if mixed else embedding}


def _is_eva(net: nn.Module) -> bool:
    from timm.models.eva import Eva

    return getattr(type(net), "forward_features", None) is Eva.forward_features
