"""From a dataset spec to the augmentation of its batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fairtune.data.augment import Augment, Flip, Light
from fairtune.data.augment_rule import AugmentRule
from fairtune.data.colour import Brightness, Contrast, Hue, Saturation
from fairtune.data.detail import Blur, Erase
from fairtune.data.geometry import Geometry
from fairtune.data.spec import DatasetSpec

_RATIO = (4 / 5, 5 / 4)


@dataclass(frozen=True)
class Chain:
    """Several augmentations one after the other, each with its own columns of parameters."""

    steps: tuple[Augment, ...]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the parameters of all steps side by side."""
        if not self.steps:
            return torch.empty(count, 0, device=generator.device)
        return torch.cat([step.draw(count, generator) for step in self.steps], dim=1)

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Return the images after every step."""
        columns = torch.split(parameters, self._widths(), dim=1)
        for step, part in zip(self.steps, columns, strict=True):
            images = step.apply(images, part)
        return images

    def _widths(self) -> list[int]:
        return [step.draw(0, torch.Generator()).shape[1] for step in self.steps]


def medical(rule: AugmentRule, flip: Flip) -> Chain:
    """Return the augmentation in the ranges of `rule`, without the steps that do nothing.

    Geometry comes first, in one resampling; then brightness, contrast, saturation and hue in
    this order, where torchvision's ColorJitter draws an order; then blur and erasing.
    """
    steps: list[Augment] = []
    if rule.crop < 1 or rule.rotate or flip != "none":
        ratio = _RATIO if rule.crop < 1 else (1.0, 1.0)
        steps.append(Geometry(flip, (rule.crop, 1.0), ratio, rule.rotate))
    made: list[tuple[float, Callable[[float], Augment]]] = [
        (rule.brightness, Brightness),
        (rule.contrast, Contrast),
        (rule.saturation, Saturation),
        (rule.hue, Hue),
        (rule.blur, Blur),
        (rule.erase, Erase),
    ]
    steps += [kind(strength) for strength, kind in made if strength]
    return Chain(tuple(steps))


def augmentation(kind: str, spec: DatasetSpec) -> Augment | None:
    """Return the augmentation `none`, `light` or `medical` for images of `spec`.

    Raises:
        ConfigError: `medical` for a data set that declares no ranges.
    """
    if kind == "none":
        return None
    if kind == "light":
        return Light(spec.flip)
    return medical(spec.ranges(), spec.flip)
