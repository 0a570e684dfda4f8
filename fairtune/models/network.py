"""The one place that calls timm: networks without a head, with or without values."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import nn

from fairtune.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from fairtune.models.spec import ModelSpec


def outline(spec: ModelSpec, image_size: int) -> nn.Module:
    """Return the network of `spec` for `image_size` without values, on the meta device.

    An architecture whose constructor computes with values is built with random ones instead.

    Raises:
        ModelError: timm has no such architecture.
    """
    with contextlib.suppress(NotImplementedError, RuntimeError), torch.device("meta"):
        return _create(spec, image_size)
    return seeded(spec, image_size, 0)


def seeded(spec: ModelSpec, image_size: int, seed: int) -> nn.Module:
    """Return the network with timm's random initialisation; the caller's RNG is not touched.

    Raises:
        ModelError: timm has no such architecture.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _create(spec, image_size)


def filled(spec: ModelSpec, image_size: int | None, file: Path) -> nn.Module:
    """Return the network with the tensors of `file`, position embedding resampled by timm.

    Args:
        spec: The model.
        image_size: Side in pixels; None for a file that is not canonical yet: the side is then
            the one the architecture was designed for, timm renames the keys of checkpoint
            layouts it knows and adapts the first convolution to `spec.channels`.
        file: A safetensors file.

    Raises:
        ModelError: timm has no such architecture, or the file does not fit it.
    """
    # With another number of classes than recorded timm only logs what is missing.
    overlay: dict[str, Any] = {"file": str(file), "custom_load": False, "num_classes": 0}
    if image_size is not None:
        overlay["input_size"] = (spec.channels, image_size, image_size)
    try:
        # The values drawn before loading are overwritten: only the caller's RNG is to be kept.
        with torch.random.fork_rng(devices=[]):
            return _create(spec, image_size, pretrained=True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, ValueError) as error:
        raise ModelError(
            f"the weights do not fit the architecture '{spec.architecture}'",
            where=file.name,
            found=str(error).splitlines()[0],
        ) from None


def pretrained_cfg(architecture: str) -> Any:
    """Return timm's record of the default pretrained weights, or None when it has none."""
    return timm.models.get_pretrained_cfg(architecture)


def _create(spec: ModelSpec, image_size: int | None, **more: Any) -> nn.Module:
    if not timm.is_model(spec.architecture):
        raise ModelError(
            "timm has no such architecture",
            where=f"model '{spec.name}' (architecture)",
            found=spec.architecture,
            todo=did_you_mean(spec.architecture, timm.list_models())
            or "see timm.list_models() for all names",
        )
    cfg = pretrained_cfg(spec.architecture)
    # Convolutional networks take any size and refuse the argument.
    if image_size is not None and (cfg is None or cfg.fixed_input_size):
        more["img_size"] = image_size
    net: nn.Module = timm.create_model(
        spec.architecture, num_classes=0, in_chans=spec.channels, **more
    )
    return net
