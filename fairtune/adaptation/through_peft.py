"""The one place that calls peft: layers are wrapped in place, by exact name.

peft matches a list of names by their ends, so `norm` would hit timm's parameter-free
`attn.norm`; one anchored expression hits what it says. Each placement has an adapter name of its
own, and none of peft's marks stay on the network, so placements do not see each other.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fairtune.adaptation.attach import Attached, Context, PeftPart
from fairtune.adaptation.layers import Layer, call_through
from fairtune.errors import ModelError

if TYPE_CHECKING:
    from peft import PeftConfig

PREFIX = "base_model.model."


def pattern(names: Sequence[str]) -> str:
    """Return the expression that matches exactly `names`."""
    return f"(?:{'|'.join(map(re.escape, names))})"


def inject(
    tuner: type[Any], config: PeftConfig, layers: Sequence[Layer], context: Context
) -> tuple[Attached, Any]:
    """Wrap `layers` as `config` says; return what trains, and peft's tuner.

    Args:
        tuner: peft's class for the method.
        config: Its configuration, with `pattern` of the layers as targets.
        layers: What is to be adapted.
        context: The network.

    Raises:
        ModelError: peft refuses a layer.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    label, net = f"p{context.number}", context.net
    call_through(layers)
    before = {id(p) for p in net.parameters()}
    try:
        with quiet():
            made = tuner(net, config, label)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(
            "peft refuses the method for these layers",
            where=context.where,
            found=str(error).splitlines()[0],
        ) from None
    # peft leaves its configuration on the network, where the next placement would find it, and
    # switches every wrapped layer to the newest adapter, those of earlier placements too.
    del net.peft_config
    for module in net.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter(sorted(module._get_available_adapters()))
    names = [layer.name for layer in layers]
    wrapped = set(made.targeted_module_names)
    if wrapped != set(names):
        raise ModelError(
            "peft wrapped other layers than the masked ones", found=sorted(wrapped ^ set(names))
        )
    trained = {
        _without(name, label): p
        for name, p in net.named_parameters()
        if p.requires_grad and id(p) not in before
    }

    def fold(net: nn.Module) -> None:
        for name in names:
            unwrap(net, name)

    stored = {name: PREFIX + name for name in trained}
    return Attached(trained, fold, peft=PeftPart(config, stored)), made


def unwrap(net: nn.Module, name: str) -> None:
    """Merge the wrapped layer `name` of a private copy and put the plain layer in its place."""
    parent, _, last = name.rpartition(".")
    layer: Any = net.get_submodule(name)
    with torch.no_grad(), quiet():
        layer.merge()
    setattr(net.get_submodule(parent), last, layer.get_base_layer())


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what peft says of defaults that are chosen here on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def joined(parts: Sequence[PeftPart]) -> PeftConfig:
    """Return one configuration for all `parts`.

    Raises:
        ModelError: They differ in more than their layers.
    """
    configs = [copy.deepcopy(part.config) for part in parts]
    plain = [_without_targets(config) for config in configs]
    if any(fields != plain[0] for fields in plain):
        raise ModelError(
            "the units train by several peft methods, and an adapter folder holds one",
            found=[str(config.peft_type.value) for config in configs],
            allowed="one method with the same fields for all adapted units",
            todo="export merged weights instead: --format safetensors",
        )
    one: PeftConfig = configs[0]
    for field in _PATTERNS:
        if len(configs) > 1 and hasattr(one, field):
            either = "|".join(getattr(config, field) for config in configs)
            setattr(one, field, f"(?:{either})")
    return one


def without_extension() -> None:
    """Keep peft from compiling its CUDA extension for BOFT while a network is built.

    Where that works peft computes another formula, so the same recipe would give other numbers.
    """
    from peft.tuners.boft import layer

    layer._FBD_CUDA = False  # type: ignore[assignment]


_PATTERNS = ("target_modules", "feedforward_modules")


def _without_targets(config: PeftConfig) -> dict[str, Any]:
    return {name: v for name, v in config.to_dict().items() if name not in _PATTERNS}


def _without(name: str, label: str) -> str:
    return name.replace(f".{label}", "", 1) if f".{label}." in f"{name}." else name
