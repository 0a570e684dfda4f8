"""Other values for some parameters, for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def swapped(parameters: Mapping[str, nn.Parameter], held: dict[str, Tensor]) -> Iterator[None]:
    """Let `parameters` have the values of `held` meanwhile, and `held` theirs; no copy is made."""
    _swap(parameters, held)
    try:
        yield
    finally:
        _swap(parameters, held)


def _swap(parameters: Mapping[str, nn.Parameter], held: dict[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.data, held[name] = held[name], parameter.data
