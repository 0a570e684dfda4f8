"""Networks made of declared sizes: without values, with random ones, with those of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtune.errors import ModelError
from fairtune.models import tensors

if TYPE_CHECKING:
    from fairtune.models.spec import ModelSpec

Make = Callable[[], nn.Module]
Rename = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def outline(make: Make) -> nn.Module:
    """Return what `make` makes without values, on the meta device."""
    with torch.device("meta"):
        return make()


def seeded(make: Make, seed: int) -> nn.Module:
    """Return what `make` makes with random values; the caller's RNG is not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def filled(
    make: Make, spec: ModelSpec, file: Path, rename: Rename, positions: Mapping[str, int]
) -> nn.Module:
    """Return what `make` makes with the tensors of `file`, in float32.

    Where files hold every buffer too, nothing is drawn and no memory but the file's is taken.

    Args:
        make: Makes the network.
        spec: The model, for messages.
        file: The weights.
        rename: Brings their names to the network's.
        positions: Name of each position embedding of an image, `(tokens, dim)` or
            `(1, tokens, dim)`, that is resampled to the network's size, with the number of its
            tokens before those of the image.

    Raises:
        ModelError: The file cannot be read or does not fit.
    """
    net = outline(make)
    state, own = rename(tensors.read(file)), net.state_dict()
    for name, prefix in positions.items():
        if name in state:
            held, like = state[name], own[name]
            square = resampled(held.reshape(-1, held.shape[-1]), like.shape[-2], prefix)
            state[name] = square.reshape(*like.shape[:-1], -1)
    whole = all(name in own for name, _ in net.named_buffers())
    if whole:
        state = {n: t.float() if t.is_floating_point() else t for n, t in state.items()}
    else:
        # Buffers that no file holds are computed by the constructor and have no meta value.
        net = seeded(make, 0)
    try:
        net.load_state_dict(state, assign=whole)
    except RuntimeError as error:
        raise ModelError(
            f"the weights do not fit the architecture '{spec.architecture}'",
            where=file.name,
            found=str(error).splitlines()[-1].strip(),
        ) from None
    return net


def resampled(positions: Tensor, wanted: int, prefix: int = 1) -> Tensor:
    """Return positions `(wanted, dim)`: those of a square of tokens resampled (bicubic).

    Args:
        positions: `(prefix + n², dim)`.
        wanted: `prefix + m²`.
        prefix: Tokens before those of the image, which are kept: a class token.
    """
    if len(positions) == wanted:
        return positions
    old, new = (round((count - prefix) ** 0.5) for count in (len(positions), wanted))
    grid = positions[prefix:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(
        grid, size=(new, new), mode="bicubic", antialias=True, align_corners=False
    )
    image = grid.permute(0, 2, 3, 1).flatten(0, 2).to(positions.dtype)
    return torch.cat([positions[:prefix], image])


def numbered(net: nn.Module) -> nn.Module:
    """Return `net` with values of the numbers that transformers keeps as buffers, on any device.

    No file holds them, so that a network made on the meta device had to be made again.
    """
    for module in net.modules():
        for name, number in (("position_ids", torch.arange), ("token_type_ids", torch.zeros)):
            held = module._buffers.get(name)
            if held is not None and held.is_meta:
                count = held.shape[-1]
                module._buffers[name] = number(count, dtype=held.dtype, device="cpu")[None]
    return net


def transformers_model(spec: ModelSpec, build: Callable[[Any], nn.Module]) -> nn.Module:
    """Return what `build` makes with the package transformers.

    Raises:
        ModelError: transformers is missing, or the sizes do not fit together.
    """
    try:
        import transformers
    except ImportError:
        raise ModelError(
            f"model '{spec.name}' needs the package transformers",
            where=f"model '{spec.name}' (loader)",
            todo="pip install 'fairtune[clip]'",
        ) from None
    try:
        return numbered(build(transformers))
    except (ValueError, KeyError) as error:
        raise ModelError(
            "transformers refuses the sizes of the model",
            where=f"model '{spec.name}' (loader)",
            found=str(error).splitlines()[0],
        ) from None
