"""Learned tokens at the entrance of blocks (Jia et al., Visual Prompt Tuning, 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fairtune.adaptation.attach import Attached, Context, nothing_left
from fairtune.errors import ModelError
from fairtune.models.paths import block_at

SLOT = "vpt"
PREFIX = "num_prefix_tokens"


class Prompt(nn.Module):
    """Tokens at the entrance of a block.

    Args:
        tokens: Number of them.
        dim: Length of each; values start uniform in `±sqrt(6 / (3 p² + dim))`, `p` the patch.
        patch: Side of a patch in pixels.
        at: Tokens that stand before them.
        replaces: Tokens of an earlier block that they replace.
        dropout: Of their values.
    """

    def __init__(
        self, tokens: int, dim: int, patch: int, at: int, replaces: int, dropout: float
    ) -> None:
        super().__init__()
        self.at, self.replaces = at, replaces
        self.dropout = nn.Dropout(dropout)
        bound = math.sqrt(6 / (3 * patch**2 + dim))
        self.values = nn.Parameter(torch.empty(1, tokens, dim).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Return `(batch, n + tokens - replaces, dim)` for `x` `(batch, n, dim)`."""
        values = self.dropout(self.values).expand(len(x), -1, -1).to(x.dtype)
        return torch.cat([x[:, : self.at], values, x[:, self.at + self.replaces :]], dim=1)


def attach(
    method: str,
    units: Sequence[str],
    context: Context,
    tokens: int,
    mode: Literal["shallow", "deep"],
    dropout: float,
) -> Attached:
    """Insert tokens at the blocks that `units` are in; return what trains.

    Raises:
        ModelError: The network has no sequence of tokens, no unit is in a block, or one is of a
            tower that images do not go through.
    """
    net, known = context.image, context.units
    strange = [u for u in units if known.tower_of(u) not in (None, known.image_tower)]
    if strange:
        raise ModelError(
            f"{method} inserts tokens among an image's, and these units are of another tower",
            where=context.where,
            found=strange[:5],
            allowed=f"units of {known.image_tower}",
            todo=f"give each tower its method: method: {{{known.image_tower}: {method}, "
            f"{known.tower_of(strange[0])}: lora}}",
        )
    if not isinstance(getattr(net, PREFIX, None), int):
        raise ModelError(
            f"{method} needs a network of tokens",
            where=context.where,
            found=type(net).__name__,
            allowed="a ViT, DeiT, DINOv2, MAE, EVA or CLIP tower",
            todo="use another method",
        )
    depths = sorted({d for unit in units if (d := known.depth_of(unit)) is not None})
    if not depths:
        raise nothing_left(method, "inserts tokens at blocks", context, found=list(units))
    at = int(getattr(net, PREFIX))
    path = known.path_in(known.image_tower)
    names = [block_at(path, depth) for depth in range(known.image_depth)]
    blocks = [context.modules[name] for name in names]
    trained: dict[str, nn.Parameter] = {}
    for depth in depths if mode == "deep" else depths[:1]:
        replaces = 0 if depth == depths[0] else tokens
        made = Prompt(tokens, _dim(net), _patch(net), at, replaces, dropout)
        made = made.to(next(blocks[depth].parameters()).device)
        blocks[depth].add_module(SLOT, made)
        blocks[depth].register_forward_pre_hook(_enter, with_kwargs=True)
        trained[f"{names[depth]}.{SLOT}.values"] = made.values
    for block in blocks[depths[0] :]:
        _shift_prefix(block, tokens)
    blocks[-1].register_forward_hook(_Leave(at, tokens))
    return Attached(trained, cannot_fold="its tokens are inputs, which no weight can hold")


class _Leave:
    """Takes the tokens out after the last block."""

    def __init__(self, at: int, tokens: int) -> None:
        self.at, self.tokens = at, tokens

    def __call__(self, module: nn.Module, given: tuple[Any, ...], out: Tensor) -> Tensor:
        return torch.cat([out[:, : self.at], out[:, self.at + self.tokens :]], dim=1)


def _enter(
    module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    entered: Tensor = module.get_submodule(SLOT)(given[0])
    return (entered, *given[1:]), named


def _shift_prefix(block: nn.Module, tokens: int) -> None:
    # Rotary positions are for image tokens only: attention counts those that stand before them.
    for module in block.modules():
        if isinstance(getattr(module, PREFIX, None), int):
            setattr(module, PREFIX, getattr(module, PREFIX) + tokens)


def _dim(net: nn.Module) -> int:
    return int(net.embed_dim)  # type: ignore[arg-type]


def _patch(net: nn.Module) -> int:
    size = getattr(getattr(net, "patch_embed", net), "patch_size", 16)
    return int(size[0] if isinstance(size, tuple) else size)
