"""Networks made of transformers' modules: built without values, and filled from a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fairtune.errors import ModelError, raise_all
from fairtune.models.made import resampled
from fairtune.models.tensors import Tensors, read

if TYPE_CHECKING:
    from fairtune.models.spec import ModelSpec

_PLACES = "position_ids"
_SHOWN = 5


@dataclass(frozen=True)
class Layout:
    """How files of one class of transformers are laid out, and what they lack.

    Attributes:
        made_by: The class, for messages.
        names: Beginnings of the file's names, and ours in their place; names of ours stay.
        positions: Our name of the image tower's positions `(1, 1 + patches, dim)`, which are
            resampled.
        begun: Values of tensors that such files may lack, by our names.
    """

    made_by: str
    names: Mapping[str, str]
    positions: str
    begun: Tensors

    def ours(self, name: str) -> str:
        """Return our name of a tensor of the file."""
        for theirs, own in self.names.items():
            if name.startswith(theirs):
                return own + name[len(theirs) :]
        return name


def outlined(make: Callable[[], nn.Module]) -> nn.Module:
    """Return what `make` makes without values, on the meta device."""
    with torch.device("meta"):
        return make()


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return what `make` makes with random values; the caller's RNG is not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def filled(
    make: Callable[[], nn.Module], layout: Layout, spec: ModelSpec, file: Path
) -> nn.Module:
    """Return what `make` makes with the tensors of `file`, in float32.

    Nothing is drawn and no other memory is taken than the file's.

    Raises:
        ModelError: The file lacks tensors, or has some that the network does not.
        Problems: Tensors of other shapes.
    """
    net = outlined(make)
    expected = net.state_dict()
    state = {layout.ours(n): t for n, t in read(file).items() if not n.endswith(_PLACES)}
    state = {**{n: t for n, t in layout.begun.items() if n not in state}, **state}
    _check_names(state, expected, layout, spec)
    wanted = expected[layout.positions].shape[1]
    state[layout.positions] = resampled(state[layout.positions][0], wanted)[None]
    _check_shapes(state, expected, layout)
    net.load_state_dict({n: t.float() for n, t in state.items()}, assign=True)
    return net


def unplaced(net: nn.Module) -> nn.Module:
    """Return `net` without the numbers of places that transformers keeps as buffers.

    No file holds them, so a network on the meta device could not have them; `places` are given to
    the embeddings in their stead.
    """
    for module in net.modules():
        module._buffers.pop(_PLACES, None)
    return net


def places(tokens: Tensor) -> Tensor:
    """Return the `(1, length)` numbers of places of tokens `(texts, length)`."""
    return torch.arange(tokens.shape[1], device=tokens.device)[None]


def check(spec: ModelSpec, longest: int, loader: str) -> None:
    """Refuse what transformers' modules cannot be built for.

    Args:
        spec: The model.
        longest: Most tokens that the network has places for.
        loader: Its name, for messages.

    Raises:
        ModelError: transformers is missing, images are not of three channels, or the tokenizer's
            limit is above `longest`.
    """
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise ModelError(
            f"model '{spec.name}' needs the package transformers",
            where=f"loader: {loader}",
            todo="pip install 'fairtune[clip]'",
        ) from None
    if spec.channels != 3:
        raise ModelError(
            "the image tower reads three channels",
            where=f"model '{spec.name}' (channels)",
            found=spec.channels,
            allowed=3,
        )
    if spec.tokenizer is not None and spec.tokenizer.limit > longest:
        raise ModelError(
            "texts may have more tokens than the network has places for",
            where=f"model '{spec.name}' (tokenizer.limit)",
            found=spec.tokenizer.limit,
            allowed=f"at most {longest}",
        )


def _check_names(state: Tensors, expected: Tensors, layout: Layout, spec: ModelSpec) -> None:
    missing = [name for name in expected if name not in state]
    surplus = [name for name in state if name not in expected]
    if missing or surplus:
        raise ModelError(
            f"the weights do not fit model '{spec.name}': of its {len(expected)} tensors "
            f"{len(missing)} are missing, and {len(surplus)} are none of its",
            found=surplus[:_SHOWN] or None,
            allowed=missing[:_SHOWN] or None,
            todo=f"give weights of transformers' {layout.made_by}",
        )


def _check_shapes(state: Tensors, expected: Tensors, layout: Layout) -> None:
    raise_all(
        "the weights do not fit the model",
        [
            ModelError(
                f"the tensor '{name}' has another shape",
                found=tuple(state[name].shape),
                allowed=str(tuple(like.shape)),
                todo=f"give weights of a {layout.made_by} of the sizes in the model's file",
            )
            for name, like in expected.items()
            if state[name].shape != like.shape
        ],
    )
