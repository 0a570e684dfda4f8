"""A lane: everything that differs between runs that could share a frozen prefix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairtune.data.batch import Batch, Loader
from fairtune.data.medical import augmentation
from fairtune.errors import RunError
from fairtune.mitigation.hooks import Averager
from fairtune.models.net import Net
from fairtune.training.average import Average
from fairtune.training.compiled import compiled_blocks
from fairtune.training.lowered import lower
from fairtune.training.mitigating import Mitigating
from fairtune.training.mixing import Mixing
from fairtune.training.net import (
    after_step,
    build_net,
    load_methods_state,
    methods_state,
    never_decayed,
    penalty,
    set_modes,
)
from fairtune.training.optim import build_optimizer, clip, distances_of, lr_factor
from fairtune.training.pins import refuse_unvalidated
from fairtune.training.prefix import start_of
from fairtune.training.prefix_file import CHUNK
from fairtune.training.ranks import current
from fairtune.training.recipe import Recipe, Seeds
from fairtune.training.targets import Targets
from fairtune.usage import Output

if TYPE_CHECKING:
    from fairtune.training.ground import Ground

SCORE_BATCH = CHUNK
"""Rows scored at once: the batches in which a prefix was computed for the official split."""

_SCHEDULE = ("last_epoch", "_step_count", "_last_lr", "base_lrs")


class Lane:
    """One run in progress: its own copy of what trains, optimiser, schedule and data order.

    Frozen tensors are shared with the session's backbone and never written; only the tensors of
    the mask are copied. Frozen modules stay in eval mode, and autograd ends at the lowest
    trainable tensor, so a mask over late blocks pays for a short backward pass only. Where what
    stands before that tensor is kept (`start`), it is read and not computed.

    Args:
        recipe: A resolved recipe that is not solved.
        seeds: Seeds of this run.
        ground: Data and model that the session holds.

    Raises:
        ConfigError: A mitigation follows the validation loss, and there are no validation rows.
        DataError: The fitted rows have nothing that a mitigation could act on.
        ModelError: A method does not support a layer of its placement, or has nothing to train.
    """

    def __init__(self, recipe: Recipe, seeds: Seeds, ground: Ground) -> None:
        self.recipe, self.ground = recipe, ground
        refuse_unvalidated(recipe, len(ground.val_rows(recipe)))
        torch.manual_seed(seeds.init)
        self.net, self.trained = build_net(recipe, seeds, ground)
        if recipe.fit.precision == "bf16":
            lower(self.net, self.trained, ground)
        self.start = start_of(self.net, recipe, ground)
        self.net.backbone.starts_at = self.start.cut
        self.net.backbone.checkpointing = recipe.fit.checkpointing == "blocks"
        if recipe.fit.compile == "blocks":
            self.net.backbone.through = compiled_blocks(self.net, recipe, ground)
        rows = ground.fit_rows(recipe)
        self.loader = ground.loader(
            rows,
            recipe.optim.batch_size,
            seed=seeds.data,
            augment=augmentation(recipe.fit.augment, ground.pack.table.spec),
            copies=recipe.fit.copies,
            serve=self.start.server(recipe.optim.batch_size),
        )
        images = recipe.optim.batch_size * recipe.optim.accumulate
        self.steps = max(1, math.ceil(len(rows) / images))
        self.mitigating = Mitigating(recipe, seeds, ground, self.net)
        exempt, distances = never_decayed(self.net), distances_of(self.trained, ground.units)
        beside = self.mitigating.beside
        self.optimizer = build_optimizer(self.trained, recipe.optim, exempt, distances, beside)
        self.parameters = [*self.trained.values(), *(p for _, held in beside for p in held)]
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
        average: Averager | None = Average(self.trained, optim.ema) if optim.ema else None
        self.average = average or self.mitigating.average(self.trained)

    def epoch(self, poll: Callable[[], str | None]) -> tuple[float, str | None]:
        """Train one pass at a stretch; see `stepwise`."""
        steps = self.stepwise(poll)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                done: tuple[float, str | None] = end.value
                return done

    def stepwise(
        self, poll: Callable[[], str | None]
    ) -> Generator[None, None, tuple[float, str | None]]:
        """Train one pass, pausing after every step for other lanes.

        The loss is added up on the device and read once, at the end of the pass.

        Returns:
            The mean loss and the reason `poll` gave to stop, if any.

        Raises:
            RunError: The loss is not finite.
        """
        set_modes(self.net)
        total = torch.zeros((), device=self.ground.device)
        seen = 0
        batches = self.loader.epoch(order=self._order())
        while group := list(itertools.islice(batches, self.recipe.optim.accumulate)):
            stop = self.ranks.agree(poll())
            if stop is not None:
                return math.nan, stop
            total += self.step(*group)
            seen += sum(len(batch.row) for batch in group)
            yield
        mean = float(self.ranks.total(total)) / max(seen, 1)
        if not math.isfinite(mean):
            raise RunError(
                "the training loss is not finite",
                reason="nan",
                found=mean,
                todo="lower the learning rate, or keep clip_norm above 0"
                + (", or lower the weight of a mitigation" if self.mitigating else ""),
            )
        self.mitigating.passed(self.taken // self.steps)
        return mean, None

    def _order(self) -> Tensor | None:
        draw, source = self.mitigating.order, self.loader.generator
        return None if draw is None or source is None else draw(source)

    def step(self, *batches: Batch) -> Tensor:
        """Take one optimiser step on all `batches`; return this rank's summed loss, detached."""
        whole = [self._mixed(batch, number) for number, batch in enumerate(batches)]
        start = random_state(self.ground.device) if self.mitigating.twice else None

        def gradient(first: bool) -> Tensor:
            if start is not None and not first:
                # What drops out at the first look drops out at the second.
                set_random_state(start, self.ground.device)
            return self._gradients(whole, first)

        summed = self.mitigating.step(gradient, self.parameters)
        if self.recipe.optim.clip_norm > 0:
            clip(self.trained.values(), self.recipe.optim.clip_norm)
            for _, beside in self.mitigating.beside:
                clip(beside, self.recipe.optim.clip_norm)
        self.optimizer.step()
        self.taken += 1
        after_step(self.net, self.taken)
        self.mitigating.stepped()
        self.schedule.step()
        if self.average is not None:
            self.average.update()
        return summed

    def _gradients(self, batches: Sequence[Batch], first: bool) -> Tensor:
        """Compute the gradient of the mean over `batches` anew; return the summed loss."""
        weight = torch.stack([batch.weight.sum() for batch in batches]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        summed = torch.zeros((), device=self.ground.device)
        for number, batch in enumerate(batches):
            summed += self._gradient(batch, weight, first, number == 0)
        extra = penalty(self.net)
        if extra is not None:
            # Every rank has the same one, and gradients are added up over the ranks.
            (extra / self.ranks.world).backward()  # type: ignore[no-untyped-call]
        self.ranks.add_up(self.parameters)
        return summed

    def _mixed(self, batch: Batch, number: int) -> Batch:
        if self.mixing is None:
            return batch
        drawn = self.taken * self.recipe.optim.accumulate + number
        return self.mixing.apply(batch, drawn, self.ground.task, self.ground.outputs)

    def _gradient(self, batch: Batch, weight: Tensor, first: bool, foremost: bool) -> Tensor:
        """Add the gradient of the samples' share of a mean of total `weight`; return their sum.

        Args:
            batch: Samples of all ranks.
            weight: Of all batches of the step.
            first: The first time that this step looks at its batches.
            foremost: The first of the step's batches.
        """
        own = self.ranks.share(batch)
        if not len(own) and not self.mitigating.looks:
            return torch.zeros((), device=self.ground.device)
        out = self._output(own)
        loss = self.targets.loss(out, own)
        factors, terms = None, dict[str, Tensor]()
        if self.mitigating.looks:
            all_ = self.ranks.whole(out, len(batch))
            factors = self.mitigating.weights(batch, all_, first)
            terms = self.mitigating.terms(batch, all_, first)
        counted = own.weight if factors is None else own.weight * self.ranks.part(factors)
        task = (loss * counted).sum() / weight
        when = self._measured_now() if first and foremost and terms else None
        if when is not None:
            # As this rank has its share of the task alone.
            own_terms = {name: term / self.ranks.world for name, term in terms.items()}
            self.mitigating.measure(when, task, own_terms, out)
        if terms:
            # As the task loss, a term is a mean over the samples of all batches of the step.
            share = batch.weight.sum() / (weight * self.ranks.world)
            task = task + torch.stack(list(terms.values())).sum() * share
        if task.requires_grad:  # not where this rank has no sample, and nothing trains beside
            task.backward()  # type: ignore[no-untyped-call]
        return loss.detach().sum()

    def _measured_now(self) -> str | None:
        """Return what the step under way is of all: the `start`, the `end`, or neither.

        The end is the last step whose first batch is full: of a few left samples terms over
        groups see nothing.
        """
        if self.taken == 0:
            return "start"
        optim, rows = self.recipe.optim, len(self.loader.rows)
        left = rows - (self.steps - 1) * optim.batch_size * optim.accumulate
        short = self.steps > 1 and left < optim.batch_size
        last = self.steps * optim.epochs - short
        return "end" if self.taken + 1 == last else None

    def _output(self, batch: Batch) -> Output:
        if not len(batch):
            shapes = (0,), (0, self.ground.outputs), (0, self.ground.backbone.dim)
            return Output(*(torch.zeros(shape, device=self.ground.device) for shape in shapes))
        with self.ground.autocast(self.recipe):
            return self.mitigating.output(batch, self._forward(self.net, batch))

    def validate(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], float]:
        """Score `rows` after a pass, and tell an average that follows how the weights do."""
        if self.average is not None and self.average.follows:
            self.average.passed(self._scored(rows)[1])
        return self.score(rows)

    def score(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], float]:
        """Return `(rows, outputs)` logits and the mean loss of `rows`, in their order.

        Without rows there are no scores, and the loss is NaN.
        """
        with nullcontext() if self.average is None else self.average.applied():
            return self._scored(rows)

    def score_fitted(self) -> tuple[NDArray[np.float32], float]:
        """Return the same of the rows the run is fitted on, which are not augmented for it."""
        with nullcontext() if self.average is None else self.average.applied():
            return self._scored(self.ground.fit_rows(self.recipe), fitted=True)

    def _scored(
        self, rows: NDArray[np.int64], fitted: bool = False
    ) -> tuple[NDArray[np.float32], float]:
        if not len(rows):
            return np.empty((0, self.ground.outputs), dtype=np.float32), math.nan
        mine = self.ranks.rows(rows)
        found = np.empty((0, self.ground.outputs), dtype=np.float32), math.nan
        if len(mine):
            full = SCORE_BATCH if fitted or self.recipe.data.fold is not None else None
            serve = self.start.server(full, scored=True)
            loader = self.ground.loader(mine, SCORE_BATCH, serve=serve)
            autocast = self.ground.autocast(self.recipe)
            found = score_rows(self.net, loader, self._forward, autocast)
        return self.ranks.gather(*found)

    def weights(self) -> dict[str, Tensor]:
        """Return copies of everything that trained, or of its average, on the CPU."""
        held = self.trained if self.average is None else self.average.held
        return {name: p.detach().to("cpu", copy=True) for name, p in held.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next pass depends on, for `load_state_dict`.

        The values are those of the lane, not copies; the random numbers are torch's own now.
        """
        schedule = self.schedule.state_dict()
        return {
            "trained": dict(self.trained),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {name: schedule[name] for name in _SCHEDULE},
            "loader": self.loader.state(),
            "taken": self.taken,
            "methods": methods_state(self.net),
            "average": None if self.average is None else self.average.state(),
            "mitigations": self.mitigating.state() if self.mitigating else None,
            "random": random_state(self.ground.device),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the lane that `state` is of would have, bit for bit on a CPU.

        Raises:
            KeyError, ValueError, RuntimeError: The state is of another recipe.
        """
        if set(state["trained"]) != set(self.trained):
            raise ValueError("other tensors train in this recipe")
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state["trained"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        # The factors themselves follow from the recipe.
        self.schedule.load_state_dict({"lr_lambdas": [], **state["schedule"]})
        self.loader.restore(state["loader"])
        self.taken = state["taken"]
        load_methods_state(self.net, state["methods"])
        if self.average is not None:
            self.average.restore(state["average"])
        if self.mitigating:
            self.mitigating.restore(state["mitigations"])
        set_random_state(state["random"], self.ground.device)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's own random numbers on the CPU and on `device`."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Set torch's own random numbers to what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


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
