"""The heads of adapters: embeddings of images in, logits out; nothing of the towers in them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from fairtune.models.language import exact, similarity, unit
from fairtune.usage import Task
from fairtune.usage.nets.prompts import logits


class AdapterHead(Protocol):
    """A head whose logits are made of parts that do not depend on what it mixes by.

    Tensors that are stored are parameters; those that do not train need no gradient.
    """

    def parts(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return what the logits of embeddings `(b, d)` or `(b, queries, d)` are made of."""
        ...

    def mixed(self, *parts: Tensor) -> Tensor:
        """Return the `(b, outputs)` logits of what `parts` returned."""
        ...

    def said(self, image: Tensor) -> Tensor:
        """Return the `(b, outputs)` zero-shot logits."""
        ...

    def __call__(self, image: Tensor) -> Tensor:
        """Return the `(b, outputs)` logits of embeddings."""
        ...


class Said(nn.Module):
    """What the text says of classes, for a head to be a part of.

    Args:
        text: `(classes, d)` unit vectors.
        scale: Factor of cosines.
        task: Kind of label.
    """

    text: Tensor
    scale: Tensor

    def __init__(self, text: Tensor, scale: Tensor, task: Task) -> None:
        super().__init__()
        self.register_buffer("text", text.detach().clone(), persistent=False)
        self.register_buffer("scale", scale.detach().clone(), persistent=False)
        self._task: Task = task

    def against(self, image: Tensor, vectors: Tensor) -> Tensor:
        """Return the `(b, outputs)` logits of cosines with `vectors` of the classes."""
        return logits(similarity(image, vectors), self.scale, self._task)

    def paired(self, classes: Tensor) -> Tensor:
        """Return the `(b, outputs)` logits of those of all classes."""
        return logits(classes, torch.ones_like(self.scale), self._task)

    def cosines(self, image: Tensor) -> Tensor:
        """Return the `(b, classes)` scaled cosines."""
        return self.scale * similarity(image, self.text)


class PrototypeHead(nn.Module):
    """See `Prototypes`; arguments as of `Said`."""

    def __init__(self, text: Tensor, scale: Tensor, task: Task) -> None:
        super().__init__()
        self.of = Said(text, scale, task)
        self.prototypes = nn.Parameter(text.detach().clone())

    def parts(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the embeddings."""
        return (image,)

    def mixed(self, *parts: Tensor) -> Tensor:
        """Return the logits."""
        (image,) = parts
        return self.of.against(image, self.prototypes)

    def said(self, image: Tensor) -> Tensor:
        """Return the zero-shot logits."""
        return self.of.against(image, self.of.text)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of embeddings."""
        return self.mixed(*self.parts(image))


class NetworkHead(nn.Module):
    """See `ClipAdapter`; of several queries each goes through the network.

    Args:
        text, scale, task: As of `Said`.
        reduction: How many times fewer values the network has in its middle.
        generator: Draws its weights, as `nn.Linear` does: uniform in +-1 / sqrt(values in).
    """

    def __init__(
        self,
        text: Tensor,
        scale: Tensor,
        task: Task,
        reduction: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.of = Said(text, scale, task)
        dim = text.shape[1]
        middle = max(1, dim // reduction)
        self.down = nn.Parameter(drawn(middle, dim, generator))
        self.up = nn.Parameter(drawn(dim, middle, generator))
        self.ratio = fixed(torch.zeros(()))

    def parts(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return unit embeddings and what the network makes of them."""
        x = unit(image)
        with exact(image):
            return x, ((x @ self.down.T).relu() @ self.up.T).relu()

    def mixed(self, *parts: Tensor) -> Tensor:
        """Return the logits."""
        x, made = parts
        return self.of.against(self.ratio * made + (1 - self.ratio) * x, self.of.text)

    def said(self, image: Tensor) -> Tensor:
        """Return the zero-shot logits."""
        return self.of.against(image, self.of.text)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of embeddings."""
        return self.mixed(*self.parts(image))


class CacheHead(nn.Module):
    """See `TipAdapter`; places without a row have no label, and count for no class.

    Args:
        text, scale, task: As of `Said`.
        shots: Places for rows of each class.
        fine_tune: Whether the embeddings of the rows train.
    """

    def __init__(
        self, text: Tensor, scale: Tensor, task: Task, shots: int, *, fine_tune: bool
    ) -> None:
        super().__init__()
        self.of = Said(text, scale, task)
        classes, dim = text.shape
        self.keys = nn.Parameter(torch.zeros(shots * classes, dim), requires_grad=fine_tune)
        self.values = fixed(torch.zeros(shots * classes, classes))
        self.alpha, self.beta = fixed(torch.zeros(())), fixed(torch.zeros(()))

    def hold(self, keys: Tensor, values: Tensor) -> None:
        """Take rows in: embeddings `(k, d)` or `(k, queries, d)`, 0/1 of their classes."""
        with torch.no_grad():
            self.keys[: len(keys)] = unit(whole(keys)).to(self.keys)
            self.values[: len(values)] = values.to(self.values)

    def parts(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return scaled cosines with the text, and cosines with the rows."""
        return self.of.cosines(image), similarity(whole(image), self.keys)

    def mixed(self, *parts: Tensor) -> Tensor:
        """Return the logits."""
        cosines, near = parts
        with exact(near):
            counted = (self.beta * (near - 1)).exp() @ self.values
        return self.of.paired(cosines + self.alpha * counted)

    def said(self, image: Tensor) -> Tensor:
        """Return the zero-shot logits."""
        return self.of.paired(self.of.cosines(image))

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of embeddings."""
        return self.mixed(*self.parts(image))


def mix(head: nn.Module, numbers: Mapping[str, float]) -> None:
    """Let a head mix by `numbers`."""
    with torch.no_grad():
        for name, value in numbers.items():
            getattr(head, name).fill_(value)


def drawn(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return a `(rows, columns)` matrix, uniform in +-1 / sqrt(columns)."""
    uniform = torch.rand(rows, columns, generator=generator)
    return (2 * uniform - 1) / math.sqrt(columns)


def fixed(value: Tensor) -> nn.Parameter:
    """Return a tensor that is stored and does not train."""
    return nn.Parameter(value, requires_grad=False)


def whole(image: Tensor) -> Tensor:
    """Return embeddings `(b, d)`; of several queries the mean of their unit vectors."""
    return image if image.ndim == 2 else unit(image).mean(dim=1)
