"""Mixup and CutMix: every sample of a batch is mixed with another one of it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch

from fairtune.data.batch import Batch
from fairtune.training.targets import soft
from fairtune.usage import Task

_STREAM = 0x4D4958
"""Keeps these random numbers apart from others of the same seed."""


@dataclass(frozen=True)
class Mix:
    """How one batch is mixed.

    Attributes:
        share: Share of a sample's own label, in [0, 1].
        box: Top, bottom, left and right pixel of what is taken from the partner; None mixes
            whole images.
    """

    share: float
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Mixing:
    """Mixes batches with parameters that follow from seed and step alone.

    Mixup (Zhang et al., ICLR 2018): image and label are `share * own + (1 - share) * partner's`
    with share ~ Beta(a, a). CutMix (Yun et al., ICCV 2019): a rectangle of the area 1 - share with
    a uniform centre, cut at the border, is the partner's, and the label has the shares of the
    area. The partner is the batch in reverse order, and one draw serves the whole batch. With
    both, each batch has either with probability 1/2. Row and groups stay the sample's own.

    Attributes:
        mixup: Parameter a of mixup, 0 for none.
        cutmix: Parameter a of CutMix, 0 for none.
        seed: Seed of the run's data.
    """

    mixup: float
    cutmix: float
    seed: int

    def draw(self, step: int, height: int, width: int) -> Mix:
        """Return how the batch of `step` is mixed."""
        rng = np.random.default_rng([self.seed, _STREAM, step])
        cut = rng.random() < 0.5 if self.mixup and self.cutmix else self.cutmix > 0
        alpha = self.cutmix if cut else self.mixup
        share = float(rng.beta(alpha, alpha))
        if not cut:
            return Mix(share)
        top, bottom = _side(height, share, rng)
        left, right = _side(width, share, rng)
        kept = 1 - (bottom - top) * (right - left) / (height * width)
        return Mix(kept, (top, bottom, left, right))

    def apply(self, batch: Batch, step: int, task: Task, outputs: int) -> Batch:
        """Return the mixed batch, its labels as `(batch, outputs)` shares."""
        mix = self.draw(step, *batch.image.shape[-2:])
        label = soft(batch.label, task, outputs)
        if mix.box is None:
            image = torch.lerp(batch.image.flip(0), batch.image, mix.share)
        else:
            top, bottom, left, right = mix.box
            image = batch.image.clone()
            image[..., top:bottom, left:right] = batch.image.flip(0)[..., top:bottom, left:right]
        return dataclasses.replace(
            batch,
            image=image,
            label=torch.lerp(label.flip(0), label, mix.share),
            weight=torch.lerp(batch.weight.flip(0), batch.weight, mix.share),
        )


def _side(length: int, share: float, rng: np.random.Generator) -> tuple[int, int]:
    cut = int(length * math.sqrt(1 - share))
    start = int(rng.integers(length)) - cut // 2
    return max(0, start), min(length, start + cut)
