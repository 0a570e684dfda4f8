"""Batches of normalised images, read from a pack without waiting for the device."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from fairtune.data.augment import Augment
from fairtune.data.gatekeep import TestPass
from fairtune.data.pack import Pack
from fairtune.data.values import IntArray

_AHEAD = 2
_RESIDENT_SHARE = 0.4
_COPY_SEED = 0xC0B1E5
"""One for all runs: fixed copies belong to the data, so what is computed of them can be kept."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What a model and its mitigations see of some rows.

    Attributes:
        row: `(b,)` index into the pack.
        image: `(b, c, h, w)` normalised, or what a loader that serves something else gives.
        label: `(b,)` class codes, or `(b, t)` floats of 0/1 for a multilabel target.
        group: `(b, a)` group codes by attribute; -1 where unknown.
        weight: `(b,)` sample weights.
        text: `(b, length)` token numbers of the rows' texts, -1 behind their end, or `(b, d)`
            floats, what a text tower makes of them; None where none are read.
        text_id: `(b,)` number of each row's text, the same where texts are; None where nobody
            asks for it.
        target_mask: `(b, h, w)` of a segmentation target, where the data set has one.
        copy: Which of the fixed copies of its rows the images are; None without fixed copies.
    """

    row: Tensor
    image: Tensor
    label: Tensor
    group: Tensor
    weight: Tensor
    text: Tensor | None = None
    text_id: Tensor | None = None
    target_mask: Tensor | None = None
    copy: int | None = None

    def __len__(self) -> int:
        return len(self.row)


def normalise(
    image: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return `(image - mean) / std`.

    Args:
        image: `(b, c, h, w)` in [0, 1], or uint8, which is divided by 255 first.
        mean: Mean by channel, in [0, 1]; one channel of `image` serves several means.
        std: Standard deviation by channel, above 0.
        dtype: Dtype of the result.
    """
    top = 255.0 if image.dtype == torch.uint8 else 1.0
    scale, shift = _affine(mean, std, top, dtype, image.device)
    return image.to(dtype) * scale - shift


class Loader:
    """Batches of some rows of a pack.

    Images stay on the device as uint8 when they fit; else a thread that runs ahead gathers them
    into pinned memory. Beyond that, one copy of order and augmentation parameters per epoch is
    all that moves, and nothing in the loop waits for the device. Order and augmentation follow
    from the generator alone, whatever device and batch size; fixed copies follow from row and
    copy alone, and pass p (from 0) serves copy p mod `copies`.

    Args:
        pack: The pack.
        rows: `(m,)` rows to serve.
        batch_size: Rows per batch.
        mean: Mean by channel of the model's input, for images in [0, 1].
        std: Standard deviation by channel.
        device: Where batches are made.
        dtype: Dtype of images.
        generator: Source of order and of augmentation without fixed copies; needed for either.
        augment: Applied to every batch.
        copies: Fixed augmented copies of every row, served in turn by pass; 0 draws anew.
        view: Applied to images in [0, 1] after augmentation and before normalisation.
        weights: `(m,)` sample weights; ones when absent.
        resident: Whether images stay on the device; None decides by free memory.
        serve: Returns what stands in place of the images of some rows of the pack in one of their
            fixed copies, ready for the model; images are then neither read nor augmented.
        text: Returns `Batch.text` of some rows of the pack.
        text_id: Returns `Batch.text_id` of some rows of the pack.
        test_pass: Needed when `rows` has a test row.

    Raises:
        StudyError: A test row without a pass.
    """

    def __init__(
        self,
        pack: Pack,
        rows: IntArray,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
        augment: Augment | None = None,
        copies: int = 0,
        view: Callable[[Tensor], Tensor] | None = None,
        weights: npt.NDArray[np.floating] | None = None,
        resident: bool | None = None,
        serve: Callable[[IntArray, int | None], Tensor] | None = None,
        text: Callable[[IntArray], Tensor] | None = None,
        text_id: Callable[[IntArray], Tensor] | None = None,
        test_pass: TestPass | None = None,
    ) -> None:
        self._serve = serve
        self.pack, self.rows = pack, np.asarray(rows, dtype=np.int64)
        self.batch_size, self.device, self.dtype = batch_size, torch.device(device), dtype
        self.generator, self.augment, self.view = generator, augment, view
        self.copies, self.passes = copies, 0
        self._everyone: tuple[int, Tensor] | None = None
        self._pass = test_pass
        self._scale, self._shift = _affine(mean, std, 1.0, dtype, self.device)
        self._row = torch.from_numpy(self.rows).to(self.device)
        label = torch.from_numpy(pack.labels(self.rows, test_pass=test_pass))
        self._label = (label.float() if label.ndim == 2 else label).to(self.device)
        group = torch.from_numpy(pack.groups(self.rows, test_pass=test_pass))
        self._group = group.to(self.device)
        given = np.ones(len(self.rows)) if weights is None else weights
        self._weight = torch.as_tensor(given, dtype=torch.float32).to(self.device)
        self._text, self._text_id = text, text_id
        size = len(self.rows) * pack.image_size**2 * pack.channels
        if serve is not None:
            resident = False
        self.resident = _fits(size, self.device) if resident is None else resident
        self._images = self._gather(self.rows) if self.resident else None

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def epoch(
        self,
        shuffle: bool = True,
        drop_last: bool = False,
        order: Tensor | None = None,
        skip: int = 0,
    ) -> Iterator[Batch]:
        """Yield the batches of one pass.

        Args:
            shuffle: Draw a new order from the generator; else rows come as given.
            drop_last: Leave out a last batch that is not full.
            order: `(k,)` positions in `rows` to visit instead, repeats allowed (a sampler's).
            skip: Batches at the start that are drawn with the others, and not made.

        Raises:
            ValueError: Shuffling or augmentation without a generator.
        """
        if order is None:
            order = self._shuffled() if shuffle else torch.arange(len(self.rows))
        copy, parameters = self._drawn(order)
        there = order.to(self.device)
        ends = range(0, len(order), self.batch_size)
        parts = [slice(i, i + self.batch_size) for i in ends]
        if drop_last and len(order) % self.batch_size:
            parts.pop()
        parts = parts[skip:]
        pixels = self._pixels(order, there, parts, copy)
        read = self._text is not None or self._text_id is not None
        rows = self.rows[order.cpu().numpy()] if read else self.rows[:0]
        for part, image in zip(parts, pixels, strict=True):
            drawn = None if parameters is None else parameters[part]
            yield Batch(
                row=self._row[there[part]],
                image=self._prepared(image, drawn),
                label=self._label[there[part]],
                group=self._group[there[part]],
                weight=self._weight[there[part]],
                text=self._of_rows(self._text, rows[part]),
                text_id=self._of_rows(self._text_id, rows[part]),
                copy=copy,
            )

    def _of_rows(self, of: Callable[[IntArray], Tensor] | None, rows: IntArray) -> Tensor | None:
        return None if of is None else self._moved(of(rows))

    def _drawn(self, order: Tensor) -> tuple[int | None, Tensor | None]:
        """Return the fixed copy that this pass serves, if any, and the parameters of its rows."""
        self.passes += 1
        if self.augment is None:
            return None, None
        if not self.copies:
            return None, self.augment.draw(len(order), self._source()).to(self.device)
        copy = (self.passes - 1) % self.copies
        return copy, self._fixed(self.rows[order.cpu().numpy()], copy)

    def _fixed(self, rows: IntArray, copy: int) -> Tensor:
        """Return the parameters of fixed copy `copy` of rows of the pack."""
        assert self.augment is not None
        if self._everyone is None or self._everyone[0] != copy:
            # Drawn for the whole pack: a row's copy is the same in every choice of rows.
            source = torch.Generator().manual_seed(_COPY_SEED + copy)
            self._everyone = copy, self.augment.draw(len(self.pack), source)
        return self._everyone[1][rows].to(self.device)

    def image(self, rows: IntArray, copy: int | None = None) -> Tensor:
        """Return the `(len(rows), c, h, w)` images of rows of the pack as batches have them.

        Args:
            rows: Rows of the pack.
            copy: Which of their fixed copies; None for the images as they are.

        Raises:
            StudyError: A test row without a pass.
        """
        drawn = None if copy is None else self._fixed(rows, copy)
        return self._prepared(self._gather(rows), drawn)

    def state(self) -> dict[str, Any]:
        """Return what the next pass depends on, for `restore`."""
        held = {} if self.generator is None else {"generator": self.generator.get_state()}
        return {"passes": self.passes, **held}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the loader that `state` is of would have."""
        self.passes = state["passes"]
        if self.generator is not None:
            self.generator.set_state(state["generator"])

    def _source(self) -> torch.Generator:
        if self.generator is None:
            raise ValueError("shuffling and augmentation need a generator")
        return self.generator

    def _shuffled(self) -> Tensor:
        source = self._source()
        return torch.randperm(len(self.rows), generator=source, device=source.device)

    def _prepared(self, image: Tensor, parameters: Tensor | None) -> Tensor:
        """Return `(b, h, w, c)` uint8 as `(b, c, h, w)` for the model."""
        if self._serve is not None:
            return image
        unit = image.permute(0, 3, 1, 2).to(self.dtype) / 255
        if self.augment is not None and parameters is not None:
            unit = self.augment.apply(unit, parameters)
        if self.view is not None:
            unit = self.view(unit)
        return unit * self._scale - self._shift

    def _pixels(
        self, order: Tensor, there: Tensor, parts: list[slice], copy: int | None
    ) -> Iterator[Tensor]:
        if self._images is not None:
            for part in parts:
                yield self._images.index_select(0, there[part])
            return
        rows = self.rows[order.cpu().numpy()]
        if self._serve is not None:
            for part in parts:
                yield self._serve(rows[part], copy)
            return
        with ThreadPoolExecutor(1) as pool:
            ahead: deque[Future[Tensor]] = deque()
            for part in parts:
                ahead.append(pool.submit(self._gather, rows[part]))
                if len(ahead) > _AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _gather(self, rows: IntArray) -> Tensor:
        return self._moved(torch.from_numpy(self.pack.images(rows, test_pass=self._pass)))

    def _moved(self, held: Tensor) -> Tensor:
        """Return a tensor of the CPU on the device; a step does not wait for it."""
        if self.device.type != "cuda":
            return held.to(self.device)
        return held.pin_memory().to(self.device, non_blocking=True)


def _affine(
    mean: Sequence[float],
    std: Sequence[float],
    top: float,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Return scale and shift `(c, 1, 1)` with `x * scale - shift = (x / top - mean) / std`."""
    scale = [1 / (top * s) for s in std]
    shift = [m / s for m, s in zip(mean, std, strict=True)]
    both = torch.tensor([scale, shift], dtype=dtype).to(device).view(2, -1, 1, 1)
    return both[0], both[1]


def _fits(size: int, device: torch.device) -> bool:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return size < _RESIDENT_SHARE * free
    return size < _RESIDENT_SHARE * psutil.virtual_memory().available
