"""What a method is given, and what it gives back. Nothing here needs torch to be imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fairtune.errors import ModelError
from fairtune.models.units import Units

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, eq=False)
class Context:
    """A run's own network, and what a method may know of the run.

    Attributes:
        net: The network, with the architecture's names; frozen tensors are the session's.
        units: Its units.
        modules: Its modules by name, as they were before any method was attached.
        parameters: Its parameters by name, likewise.
        steps: Optimiser steps of the whole run.
        number: Of the placement in the recipe.
        where: What the user wrote the method under, for messages.
    """

    net: nn.Module
    units: Units
    modules: Mapping[str, nn.Module]
    parameters: Mapping[str, nn.Parameter]
    steps: int
    number: int = 0
    where: str = "adaptation.method"

    @classmethod
    def of(cls, net: nn.Module, units: Units, steps: int) -> Context:
        """Return the context of the first placement on `net`."""
        return cls(net, units, dict(net.named_modules()), dict(net.named_parameters()), steps)

    @property
    def image(self) -> nn.Module:
        """The tower that images go through; a network of one itself."""
        tower = self.units.image_tower
        return self.net if tower is None else self.modules[tower]

    def module_of(self, tensor: str) -> nn.Module:
        """Return the module that holds the tensor called `tensor`."""
        return self.modules[tensor.rpartition(".")[0]]


@dataclass(frozen=True)
class PeftPart:
    """What makes a placement loadable through peft alone.

    Attributes:
        config: The configuration that its layers were made with.
        names: Name of each trained tensor in peft's state dict, by its name here.
    """

    config: Any
    names: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Attached:
    """A method at work on a network.

    Attributes:
        trained: What trains, by names that do not depend on how layers are wrapped.
        fold: Turns a private copy of the network into plain modules that compute the same; None
            where the method has only touched the architecture's own tensors.
        cannot_fold: Why there is no such thing, where the method does not allow it.
        undecayed: Names in `trained` that are never decayed: vectors stored as matrices.
        penalty: A term of the training loss, from the network.
        stepped: Called with the number of the optimiser step that was made, counted from 1.
        state: What the method remembers from step to step besides the trained tensors, for a
            checkpoint that is trained on; None for nothing.
        load_state: Takes back what `state` gave.
        peft: How peft would load it; None for a method of our own.
    """

    trained: dict[str, nn.Parameter]
    fold: Callable[[nn.Module], None] | None = None
    cannot_fold: str | None = None
    undecayed: frozenset[str] = frozenset()
    penalty: Callable[[], torch.Tensor] | None = None
    stepped: Callable[[int], None] | None = None
    state: Callable[[], dict[str, Any]] | None = None
    load_state: Callable[[dict[str, Any]], None] | None = None
    peft: PeftPart | None = None

    @property
    def adds(self) -> bool:
        """Whether there are tensors that the architecture does not have."""
        return self.fold is not None or self.cannot_fold is not None


def together(made: Sequence[Attached]) -> Attached:
    """Return two or more halves of one method, on other layers each, as one.

    They fold where all do; peft alone does not load them.
    """
    folds = [one.fold for one in made if one.fold is not None]

    def fold(net: nn.Module) -> None:
        for one in folds:
            one(net)

    return Attached(
        {name: p for one in made for name, p in one.trained.items()},
        fold,
        undecayed=frozenset[str]().union(*(one.undecayed for one in made)),
    )


def nothing_left(method: str, why: str, context: Context, found: object = None) -> ModelError:
    """Return the error of a method that finds nothing to train among the masked units."""
    kind = context.where.removeprefix("adaptation.method").lstrip(".")
    direct = f"{{{kind or 'TYPE'}: direct}}"
    return ModelError(
        f"{method} {why}: nothing is left to train",
        where=context.where,
        found=found,
        todo=f"mask other units, or train these directly: method: {direct}",
    )
