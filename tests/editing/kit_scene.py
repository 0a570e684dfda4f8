"""Scenes by hand: images, groups, labels and a small model, with a count of what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fairtune.config import parse
from fairtune.data.values import IntArray
from fairtune.editing.edits.dne import Dne
from fairtune.editing.scene import Scene
from fairtune.usage import Task


def dne(**fields: Any) -> Dne:
    return parse(Dne, {"attribute": "sex", **fields})


@dataclass
class Stage:
    """A scene with the calls of its parts.

    Attributes:
        scene: The scene.
        batches: Sizes of all batches that `embed` was asked for.
        told: Everything it told.
    """

    scene: Scene
    batches: list[int] = field(default_factory=list)
    told: list[tuple[str, int, int]] = field(default_factory=list)


def stage(
    image: Tensor,
    model: nn.Module,
    label: IntArray,
    groups: Mapping[str, tuple[IntArray, Sequence[str]]],
    *,
    task: Task = "binary",
    outputs: int = 1,
    first_row: int = 0,
    differentiable: bool = True,
    states: Path | None = None,
    watch: Callable[[str, int, int], None] = lambda *what: None,
    embedding: Callable[[int], None] = lambda call: None,
) -> Stage:
    """Return a stage on all of `image`; rows of the pack are counted from `first_row`.

    `watch` is told what the scene tells, `embedding` the number of a call of `embed`; either may
    raise.
    """
    made: Stage

    def embed(batch: Tensor) -> Tensor:
        embedding(len(made.batches))
        made.batches.append(len(batch))
        found: Tensor = model(batch)
        return found

    def features(rows: IntArray) -> Any:
        with torch.no_grad():
            return model(image[rows - first_row]).double().numpy()

    def told(what: str, queries: int, budget: int) -> None:
        made.told.append((what, queries, budget))
        watch(what, queries, budget)

    scene = Scene(
        rows=np.arange(first_row, first_row + len(image)),
        image=lambda rows: image[rows - first_row],
        embed=embed,
        features=features,
        group=lambda name: (groups[name][0], tuple(groups[name][1])),
        label=label,
        task=task,
        outputs=outputs,
        channels=image.shape[1],
        image_size=image.shape[-1],
        device=torch.device("cpu"),
        differentiable=differentiable,
        model="small",
        told=told,
        states=states,
    )
    made = Stage(scene)
    return made


class Bent(nn.Module):
    """A small embedding that is no affine function of the image."""

    def __init__(self, channels: int, side: int, dim: int = 6, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        size = channels * side**2
        self.weight = torch.randn(size, dim, generator=draw) / size**0.5

    def forward(self, image: Tensor) -> Tensor:
        return torch.tanh(4 * (image.flatten(1) @ self.weight))


def small(
    rows: int = 40,
    side: int = 6,
    channels: int = 1,
    *,
    names: Sequence[str] = ("F", "M"),
    unknown: int = 0,
    seed: int = 0,
    **more: Any,
) -> Stage:
    """Return a stage of a few images in which the first pixels tell the group."""
    draw = np.random.default_rng(seed)
    group = draw.integers(0, len(names), rows)
    label = draw.integers(0, 2, rows)
    image = draw.uniform(0.2, 0.8, (rows, channels, side, side))
    image[:, :, 0, 0] = 0.2 + 0.6 * group[:, None] / max(len(names) - 1, 1)
    group[:unknown] = -1
    pixels = torch.from_numpy(image.astype(np.float32))
    given = {"label": label, "groups": {"sex": (group, names)}, "model": Bent(channels, side)}
    return stage(pixels, **{**given, **more})
