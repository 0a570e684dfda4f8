"""A lane: everything that differs between runs that could share a frozen prefix."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairtune.data.batch import Batch, Loader
from fairtune.data.medical import augmentation
from fairtune.errors import RunError
from fairtune.models.net import Net
from fairtune.training.average import Average
from fairtune.training.mixing import Mixing
from fairtune.training.net import after_step, build_net, never_decayed, penalty, set_modes
from fairtune.training.optim import build_optimizer, distances_of, lr_factor
from fairtune.training.ranks import current
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.targets import Targets
from fairtune.usage import Output

if TYPE_CHECKING:
    from fairtune.training.session import Ground

SCORE_BATCH = 128


class Lane:
    """One run in progress: its own copy of what trains, optimiser, schedule and data order.

    Frozen tensors are shared with the session's backbone and never written; only the tensors of
    the mask are copied. Frozen modules stay in eval mode, and autograd ends at the lowest
    trainable tensor, so a mask over late blocks pays for a short backward pass only.

    Args:
        recipe: A resolved recipe with a non-empty mask.
        seeds: Seeds of this run.
        ground: Data and model that the session holds.
    """

    def __init__(self, recipe: Recipe, seeds: Seeds, ground: Ground) -> None:
        self.recipe, self.ground = recipe, ground
        torch.manual_seed(seeds.init)
        self.net, self.trained = build_net(recipe, seeds, ground)
        rows = ground.fit_rows(recipe)
        self.loader = ground.loader(
            rows,
            recipe.optim.batch_size,
            seed=seeds.data,
            augment=augmentation(recipe.fit.augment, ground.pack.table.spec),
            copies=recipe.fit.copies,
        )
        self.steps = max(1, math.ceil(len(rows) / recipe.optim.batch_size))
        exempt, distances = never_decayed(self.net), distances_of(self.trained, ground.units)
        self.optimizer = build_optimizer(self.trained, recipe.optim, exempt, distances)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lr_factor(recipe.optim, self.steps)
        )
        self._forward = ground.forward(recipe)
        optim, self.ranks, self.taken = recipe.optim, current(), 0
        self.targets = Targets.of(
            recipe.usage, optim, ground.labels(rows), ground.task, ground.outputs, ground.device
        )
        mixes = optim.mixup > 0 or optim.cutmix > 0
        self.mixing = Mixing(optim.mixup, optim.cutmix, seeds.data) if mixes else None
        self.average = Average(self.trained, optim.ema) if optim.ema else None

    def epoch(self, poll: Callable[[], str | None]) -> tuple[float, str | None]:
        """Train one pass; return the mean loss and the reason `poll` gave to stop, if any.

        The loss is added up on the device and read once, at the end of the pass.

        Raises:
            RunError: The loss is not finite.
        """
        set_modes(self.net)
        total = torch.zeros((), device=self.ground.device)
        seen = 0
        for batch in self.loader.epoch():
            stop = self.ranks.agree(poll())
            if stop is not None:
                return math.nan, stop
            total += self.step(batch)
            seen += len(batch.row)
        mean = float(self.ranks.total(total)) / max(seen, 1)
        if not math.isfinite(mean):
            raise RunError(
                "the training loss is not finite",
                reason="nan",
                found=mean,
                todo="lower the learning rate, or keep clip_norm above 0",
            )
        return mean, None

    def step(self, batch: Batch) -> Tensor:
        """Take one optimiser step; return the summed loss of this rank's samples, detached."""
        if self.mixing is not None:
            batch = self.mixing.apply(batch, self.taken, self.ground.task, self.ground.outputs)
        self.optimizer.zero_grad(set_to_none=True)
        summed = self._gradient(self.ranks.share(batch), batch.weight.sum())
        self.ranks.add_up(self.trained.values())
        if self.recipe.optim.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.trained.values(), self.recipe.optim.clip_norm)
        self.optimizer.step()
        self.taken += 1
        after_step(self.net, self.taken)
        self.schedule.step()
        if self.average is not None:
            self.average.update()
        return summed

    def _gradient(self, batch: Batch, weight: Tensor) -> Tensor:
        """Add the gradient of the samples' share of a mean of total `weight`; return their sum."""
        extra, summed = penalty(self.net), torch.zeros((), device=self.ground.device)
        # Every rank has the same penalty, and gradients are added up over the ranks.
        total = None if extra is None else extra / self.ranks.world
        if len(batch):
            with self.ground.autocast(self.recipe):
                out = self._forward(self.net, batch)
            loss = self.targets.loss(out, batch)
            summed = loss.detach().sum()
            mean = (loss * batch.weight).sum() / weight
            total = mean if total is None else mean + total
        if total is not None:
            total.backward()  # type: ignore[no-untyped-call]
        return summed

    def score(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], float]:
        """Return `(rows, outputs)` logits and the mean loss of `rows`, in their order.

        Without rows there are no scores, and the loss is NaN.
        """
        if not len(rows):
            return np.empty((0, self.ground.outputs), dtype=np.float32), math.nan
        mine = self.ranks.rows(rows)
        found = np.empty((0, self.ground.outputs), dtype=np.float32), math.nan
        if len(mine):
            loader = self.ground.loader(mine, SCORE_BATCH)
            autocast = self.ground.autocast(self.recipe)
            with nullcontext() if self.average is None else self.average.applied():
                found = score_rows(self.net, loader, self._forward, autocast)
        return self.ranks.gather(*found)

    def weights(self) -> dict[str, Tensor]:
        """Return copies of everything that trained, or of its average, on the CPU."""
        held = self.trained if self.average is None else self.average.held
        return {name: p.detach().to("cpu", copy=True) for name, p in held.items()}


def score_rows(
    net: Net,
    loader: Loader,
    forward: Callable[[Net, Batch], Output],
    autocast: AbstractContextManager[object],
) -> tuple[NDArray[np.float32], float]:
    """Return `(rows, outputs)` logits and the mean loss over everything `loader` yields."""
    net.eval()
    scores, losses = [], []
    with torch.inference_mode(), autocast:
        for batch in loader.epoch(shuffle=False):
            out = forward(net, batch)
            scores.append(out.score.float())
            losses.append(out.loss.float())
    return torch.cat(scores).cpu().numpy(), float(torch.cat(losses).mean())
