"""A trained adapter as the folder that peft reads: adapter_config.json and its tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairtune.adaptation.attach import PeftPart
from fairtune.adaptation.through_peft import PREFIX, joined, quiet, without_extension
from fairtune.errors import ModelError
from fairtune.models.backbone import Backbone

LABEL = "default"


def save(
    folder: Path,
    backbone: Backbone,
    parts: Sequence[PeftPart],
    trained: Mapping[str, Tensor],
    head: Mapping[str, Tensor],
    outputs: int,
) -> None:
    """Write the adapter to `folder`.

    `PeftModel.from_pretrained(timm.create_model(..., num_classes=outputs), folder)` computes what
    the trained model does, when the network holds the pretrained values the training started from.
    The head travels as peft's `modules_to_save`.

    Args:
        folder: Made where it is missing.
        backbone: The pretrained one, without a head; it is copied.
        parts: How peft loads each placement.
        trained: What trained, by our names.
        head: The head's `weight` and `bias`.
        outputs: Outputs of the head.

    Raises:
        ModelError: Several peft methods are at work, or the network is none of timm.
    """
    from peft import get_peft_model

    config: Any = copy.deepcopy(joined(parts))
    plain, classifier = copy.deepcopy(backbone.net), backbone.classifier
    if not hasattr(plain, "reset_classifier"):
        raise ModelError(
            "an adapter of peft needs a network of timm",
            found=type(plain).__name__,
            todo="export merged weights instead: --format safetensors",
        )
    plain.reset_classifier(outputs)  # type: ignore[operator]
    config.modules_to_save = [classifier]
    without_extension()
    with quiet():
        model = get_peft_model(plain, config)
    names = {stored: name for part in parts for name, stored in part.names.items()}
    values = {stored: trained[name] for stored, name in names.items()}
    values |= {f"{PREFIX}{classifier}.modules_to_save.{n}": t for n, t in head.items()}
    _fill(model, values)
    with quiet():
        model.save_pretrained(str(folder))


def _fill(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    held = {
        name.replace(f".{LABEL}", "", 1): parameter for name, parameter in model.named_parameters()
    }
    missing = sorted(set(values) - set(held))
    if missing:
        raise ModelError("peft names these tensors otherwise", found=missing[:5])
    with torch.no_grad():
        for name, value in values.items():
            held[name].copy_(value)
