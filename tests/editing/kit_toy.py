"""A small world with a known bias and a known optimum, and a small network that has learned it.

28 x 28 images in [0, 1]: a smooth background with noise; a disease y is a Gaussian blob at a
random place, an attribute a a brighter square of 5 x 5 pixels, always in the same place. In
training rows a = y in nine of ten, elsewhere in one of two. An edit of +1 on the square, with
clamping, makes both groups equally bright there: the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from kit_scene import Stage, stage
from torch import Tensor, nn
from torch.nn import functional

from fairtune.data.values import IntArray
from fairtune.editing.edit import Edit
from fairtune.editing.heads import Floats
from fairtune.editing.probe import Read, fit_probe, read
from fairtune.usage import readout
from fairtune.usage.weights import even

SIDE, DIM = 28, 48
SQUARE = slice(2, 7)
GROUPS = ("dark", "bright")
L2 = 1e-2


@dataclass(frozen=True, eq=False)
class World:
    """Images with what is known of them.

    Attributes:
        image: `(n, 1, 28, 28)`.
        y: `(n,)` disease.
        a: `(n,)` attribute.
    """

    image: Tensor
    y: IntArray
    a: IntArray


def world(count: int, agree: float, seed: int) -> World:
    """Return `count` images in which a = y in the share `agree`."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 2, count)
    a = np.where(draw.random(count) < agree, y, 1 - y)
    smooth = torch.from_numpy(draw.normal(size=(count, 1, 7, 7)))
    field = functional.interpolate(smooth, size=(SIDE, SIDE), mode="bilinear").squeeze(1).numpy()
    image = 0.45 + 0.06 * field + 0.04 * draw.normal(size=(count, SIDE, SIDE))
    centre = draw.uniform(10, 20, size=(count, 2))
    at = np.arange(SIDE)
    row, column = (np.exp(-((at - centre[:, [i]]) ** 2) / 8) for i in (0, 1))
    image += 0.11 * y[:, None, None] * row[:, :, None] * column[:, None, :]
    image[:, SQUARE, SQUARE] += 0.12 * a[:, None, None]
    pixels = torch.from_numpy(image.clip(0, 1).astype(np.float32)).unsqueeze(1)
    return World(pixels, y.astype(np.int64), a.astype(np.int64))


class Unit(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image * 4 - 2


def network(rows: int = 4000, epochs: int = 3, size: int = 64, seed: int = 0) -> nn.Module:
    """Return a frozen encoder, trained on unbiased images for disease and attribute."""
    torch.manual_seed(seed)
    body = nn.Sequential(
        Unit(),
        nn.AvgPool2d(2),
        nn.Conv2d(1, 24, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(3),
        nn.Flatten(),
        nn.Linear(288, DIM),
        nn.LayerNorm(DIM),
    )
    head = nn.Linear(DIM, 2)
    shown = world(rows, 0.5, 1000 + seed)
    target = torch.from_numpy(np.stack([shown.y, shown.a], axis=1)).float()
    parameters = [*body.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-2)
    steps = epochs * (rows // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    for _ in range(epochs):
        for at in torch.randperm(rows).split(size)[: rows // size]:
            logits = head(body(shown.image[at]))
            loss = functional.binary_cross_entropy_with_logits(logits, target[at])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return body.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class Toy:
    """Encoder and images: biased ones to learn from, unbiased ones to fit anew and to judge on."""

    net: nn.Module
    train: World
    again: World
    test: World

    def embedded(self, rows: World, edit: Edit | None = None) -> Floats:
        """Return the embeddings of rows under an edit."""
        view = (lambda image: image) if edit is None else edit.on("cpu")
        with torch.no_grad():
            parts = [self.net(view(image)) for image in rows.image.split(500)]
        return torch.cat(parts).double().numpy()

    def stage(self) -> Stage:
        """Return what an edit is learned on."""
        groups = {"square": (self.train.a, GROUPS)}
        return stage(self.train.image, self.net, self.train.y, groups)

    def frozen(self, edit: Edit | None) -> Read:
        """Return how well the head of unedited training images reads test images."""
        return self._read(self.train, None, edit)

    def retrained(self, edit: Edit | None) -> Read:
        """Return the same of a head that is fitted on edited images of other, unbiased rows."""
        return self._read(self.again, edit, edit)

    def task(self, edit: Edit | None, *, reweighted: bool = False) -> tuple[float, float, float]:
        """Return AUC, accuracy and equalized-odds difference of the disease on test images.

        The head is fitted on edited training images.
        """
        train, test = self.train, self.test
        weight = even(train.a * 2 + train.y) if reweighted else None
        features = self.embedded(train, edit)
        solved, bias, _ = readout.fit(features, train.y, "binary", 1, L2, sample_weight=weight)
        score = (self.embedded(test, edit) @ solved.T + bias)[:, 0]
        called = score > 0
        gaps = []
        for y in (0, 1):
            rates = [called[(test.y == y) & (test.a == a)].mean() for a in (0, 1)]
            gaps.append(abs(rates[0] - rates[1]))
        rank = score.argsort().argsort() + 1.0
        positive = int(test.y.sum())
        above = rank[test.y == 1].sum() - positive * (positive + 1) / 2
        auc = float(above / positive / (len(score) - positive))
        return auc, float((called == test.y).mean()), float(max(gaps))

    def _read(self, fitted: World, by: Edit | None, edit: Edit | None) -> Read:
        features = self.embedded(fitted, by)
        probe = fit_probe(features, fitted.a, GROUPS, attribute="square", l2=L2)
        rows = np.arange(len(self.test.a))
        return read(probe, self.embedded(self.test, edit), self.test.a, GROUPS, rows)


def toy(**training: int) -> Toy:
    """Return the toy, its network trained."""
    net = network(**training)
    return Toy(net, world(4000, 0.9, 1), world(2000, 0.5, 2), world(4000, 0.5, 3))


def saturating() -> Edit:
    """Return the optimum: white on the square, nothing elsewhere."""
    value = torch.zeros(1, SIDE, SIDE)
    value[:, SQUARE, SQUARE] = 1.0
    return Edit(value, SIDE, clamp=True)
