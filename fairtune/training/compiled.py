"""Blocks compiled by torch: each one alone, and those that are alike once for all runs.

A whole network would be compiled into one piece that no other mask could use; of a vision
transformer the blocks differ in nothing but values, what trains and what a method has put there.
"""

from __future__ import annotations

import importlib.util
import shutil
import types
from collections.abc import Hashable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fairtune import store
from fairtune.config import digest
from fairtune.config.settings import c_compilers, cpp_compiler, keep_compiled_code
from fairtune.errors import ModelError
from fairtune.models.split import Through
from fairtune.training.prefix_file import CHUNK
from fairtune.training.ranks import current
from fairtune.training.recipe import Recipe

if TYPE_CHECKING:
    from fairtune.models.net import Net
    from fairtune.training.ground import Ground

FIELD = "recipe.fit.compile"
FOLDER = "compiled"
"""Folder of the cache that torch keeps compiled code in, for all processes."""

KEPT = 64
"""Kinds of blocks that a process keeps compiled; one more is compiled again when it returns."""

_BACKEND = "inductor"
_DO = "fit.compile: none"


def check_compiler(device: torch.device) -> None:
    """Refuse a machine on which nothing can be compiled for `device`.

    Raises:
        ModelError: Says what is missing.
    """
    if device.type == "cpu":
        missing = None if shutil.which(cpp_compiler()) else cpp_compiler()
        needed = "a C++ compiler (g++, or what CXX names)"
    elif device.type == "cuda":
        there = any(shutil.which(name) for name in c_compilers())
        missing = None if there else " or ".join(c_compilers())
        missing = missing if importlib.util.find_spec("triton") else "triton"
        needed = "triton and a C compiler (gcc or clang, or what CC names)"
    else:
        missing, needed = f"a compiler for {device.type}", "the device cpu or cuda"
    if missing is not None:
        raise ModelError(
            "blocks cannot be compiled on this machine",
            where=FIELD,
            found=f"no {missing}",
            allowed=f"blocks: with {needed}; none: everywhere",
            todo=f"install it, or {_DO}",
        )


def compiled_blocks(net: Net, recipe: Recipe, ground: Ground) -> Through:
    """Return what computes the blocks of `net`: compiled from the first one that trains.

    Blocks before that are computed as they are, so that a run gives the same numbers whether
    what they make is kept (`training.prefix`) or not. So are batches that are not full: each
    further number of rows would be compiled anew.

    Raises:
        StorageError: The cache cannot be written.
    """
    with store.writing(ground.pack.cache, what="compiled code"):
        keep_compiled_code(ground.pack.cache / FOLDER)
    world = current().world
    most = recipe.optim.batch_size
    full = frozenset({most // world, -(-most // world)})
    blocks = net.backbone.blocks[net.backbone.first_trained :]
    # A method's numbers (alpha) are constants of the code.
    run = recipe.fit.precision, full, digest(recipe.adaptation.method.to_json())
    return _Compiled({id(b): _of_kind((*run, *_kind(b)), ground) for b in blocks}, full)


class _Compiled:
    """Computes blocks, by compiled code where there is any.

    Args:
        functions: What computes a block, by its identity.
        full: Rows of a full batch of training.
    """

    def __init__(self, functions: dict[int, Through], full: frozenset[int]) -> None:
        self._functions, self._full = functions, full

    def __call__(self, block: nn.Module, x: Tensor, **more: Tensor) -> Tensor:
        full = self._full if torch.is_grad_enabled() else (CHUNK,)
        act = self._functions.get(id(block)) if len(x) in full else None
        if act is None:
            out: Tensor = block(x, **more)
            return out
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        try:
            return act(block, x, **more)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            raise ModelError(
                "torch cannot compile a block of this network as it is trained here",
                where=FIELD,
                found=next(iter(str(error).splitlines()), type(error).__name__),
                todo=_DO,
            ) from error


def _of_kind(kind: Hashable, ground: Ground) -> Through:
    kept = ground.compiled
    made = kept.pop(kind, None) or _fresh()
    kept[kind] = made
    while len(kept) > KEPT:
        del kept[next(iter(kept))]
    return made


def _kind(block: nn.Module) -> tuple[Hashable, ...]:
    """Return what blocks have in common that can share compiled code.

    torch would tell them apart itself, but for hooks, which it takes for granted; and after some
    number of kinds it gives up. So each has code of its own, compiled for training, with a
    gradient to hand on or without, and for scoring.
    """
    parameters = tuple(
        (name, p.shape, p.dtype, p.requires_grad) for name, p in block.named_parameters()
    )
    modules = tuple((n, type(m), m.extra_repr(), *_hooks(m)) for n, m in block.named_modules())
    return parameters, modules


def _hooks(module: nn.Module) -> tuple[Hashable, ...]:
    return (*module._forward_hooks.values(), *module._forward_pre_hooks.values())


def _fresh() -> Through:
    """Return a compiled function with code of its own: that is what torch counts kinds by."""
    own = types.FunctionType(_call.__code__.replace(), globals(), "block")
    made: Through = torch.compile(own, backend=_BACKEND, fullgraph=True, dynamic=False)
    return made


def _call(block: nn.Module, x: Tensor, **more: Tensor) -> Tensor:
    out: Tensor = block(x, **more)
    return out
