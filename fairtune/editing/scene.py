"""What an edit is learned on: training images, an embedding, groups and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairtune.data.values import IntArray
from fairtune.usage import Task


@dataclass(frozen=True, eq=False)
class Scene:
    """Training rows and the model that reads them. Nothing here knows of other rows.

    Attributes:
        rows: `(n,)` rows of the pack that the edit is learned on.
        image: Returns the unedited images `(k, c, side, side)` in [0, 1] of rows of the pack, on
            the device.
        embed: Returns `(k, dim)` fp32 embeddings of images in [0, 1]; differentiable where
            `differentiable`.
        features: Returns `(k, dim)` embeddings of unedited rows, kept for all where that pays.
        group: Returns `(n,)` codes of an attribute or crossing for `rows`, -1 where unknown, and
            the names of its groups.
        label: `(n,)` class codes, or `(n, targets)` of 0/1, of `rows`.
        task, outputs: Kind of label, and columns of its score.
        channels, image_size: Of the images.
        device: Where images are.
        differentiable: Whether the model has a gradient.
        model: Name of the model, for the file.
        told: Called with what is done, queries so far and in all; may raise `Interrupted`.
        states: Folder in which the state of a search that is cut off is kept; None keeps none.
    """

    rows: IntArray
    image: Callable[[IntArray], Tensor]
    embed: Callable[[Tensor], Tensor]
    features: Callable[[IntArray], NDArray[np.float64]]
    group: Callable[[str], tuple[IntArray, tuple[str, ...]]]
    label: IntArray
    task: Task
    outputs: int
    channels: int
    image_size: int
    device: torch.device
    differentiable: bool
    model: str
    told: Callable[[str, int, int], None]
    states: Path | None = None
