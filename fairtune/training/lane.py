"""A lane: everything that differs between runs that could share a frozen prefix."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairtune.data.batch import Batch
from fairtune.data.medical import augmentation
from fairtune.mitigation.hooks import Averager
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
from fairtune.training.passes import Pass, at_a_stretch, finite, measured_at, scoring
from fairtune.training.pins import refuse_unvalidated
from fairtune.training.prefix import start_of
from fairtune.training.prefix_file import CHUNK
from fairtune.training.random import random_state, set_random_state
from fairtune.training.ranks import current, sliced
from fairtune.training.readout import begin
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
        self.edit = ground.edit(recipe)
        torch.manual_seed(seeds.init)
        self.net, self.trained = build_net(recipe, seeds, ground)
        begin(recipe, seeds, ground, self.net)
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
            edit=self.edit,
            seed=seeds.data,
            augment=augmentation(recipe.fit.augment, ground.pack.table.spec),
            copies=recipe.fit.copies,
            serve=self.start.server(recipe.optim.batch_size),
            text=ground.texts.server(recipe, self.net.backbone.text_trains)
            if recipe.usage.reads_text
            else None,
            text_id=ground.texts.numbers if recipe.usage.pairs else None,
        )
        images = recipe.optim.batch_size * recipe.optim.accumulate
        self.steps = max(1, math.ceil(len(rows) / images))
        self.mitigating = Mitigating(recipe, seeds, ground, self.net)
        # What is stored and does not train is none of the optimiser's.
        moved = {name: p for name, p in self.trained.items() if p.requires_grad}
        exempt, distances = never_decayed(self.net), distances_of(moved, ground.units)
        beside = self.mitigating.beside
        self.optimizer = build_optimizer(moved, recipe.optim, exempt, distances, beside)
        self.parameters = [*moved.values(), *(p for _, held in beside for p in held)]
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lr_factor(recipe.optim, self.steps)
        )
        self._forward, self._score = ground.forward(recipe), ground.scorer(recipe)
        optim, self.ranks, self.taken = recipe.optim, current(), 0
        self.targets = Targets.of(
            optim, ground.labels(rows), ground.task, ground.outputs, ground.device
        )
        mixes = optim.mixup > 0 or optim.cutmix > 0
        self.mixing = Mixing(optim.mixup, optim.cutmix, seeds.data) if mixes else None
        average: Averager | None = Average(self.trained, optim.ema) if optim.ema else None
        self.average = average or self.mitigating.average(self.trained)
        self.under_way: Pass | None = None

    def epoch(self) -> float:
        """Train one pass at a stretch and end it; return its mean loss."""
        loss = at_a_stretch(self.stepwise())
        self.end_pass()
        return loss

    def stepwise(self) -> Generator[None, None, float]:
        """Train the pass under way, or a new one, pausing before every step.

        While it pauses, `state_dict` says all that the rest depends on. The loss is added up on
        the device and read once, at the end of the pass.

        Returns:
            The mean loss.

        Raises:
            RunError: The loss is not finite.
        """
        now = self.under_way
        if now is None:
            total = torch.zeros((), device=self.ground.device)
            now = self.under_way = Pass(self.loader.state(), total)
        if now.loss is None:
            yield from self._steps(now)
            now.loss = self._mean_loss(now)
            self.mitigating.passed(self.taken // self.steps)
        return now.loss

    def _steps(self, now: Pass) -> Generator[None, None, None]:
        set_modes(self.net)
        size = self.recipe.optim.accumulate
        batches: Iterator[Batch] = self.loader.epoch(order=self._order(), skip=now.done * size)
        while group := list(itertools.islice(batches, size)):
            yield
            now.total += self.step(*group)
            now.seen += sum(len(batch.row) for batch in group)
            now.done += 1

    def _mean_loss(self, now: Pass) -> float:
        mean = float(self.ranks.total(now.total)) / max(now.seen, 1)
        return finite(mean, bool(self.mitigating))

    def end_pass(self) -> None:
        """Note that what follows from the pass is known: the next step begins another one."""
        self.under_way = None

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
        own, pairs = self.ranks.share(batch), self.recipe.usage.pairs
        if not len(own) and not self.mitigating.looks and not pairs:
            return torch.zeros((), device=self.ground.device)
        out = self._output(own, batch)
        factors, terms = None, dict[str, Tensor]()
        if self.mitigating.looks or pairs:
            all_ = self.recipe.usage.paired(self.net, self.ranks.whole(out, len(batch)), batch)
            factors = self.mitigating.weights(batch, all_, first)
            terms = self.mitigating.terms(batch, all_, first)
        if pairs:
            # Losses depend on the samples of all ranks: as of a term, each has its share.
            loss = self.ranks.part(all_.loss)
            counted = batch.weight if factors is None else batch.weight * factors
            task = (all_.loss * counted).sum() / (weight * self.ranks.world)
        else:
            loss = self.targets.loss(out, own)
            counted = own.weight if factors is None else own.weight * self.ranks.part(factors)
            task = (loss * counted).sum() / weight
        when = None
        if first and foremost and terms:
            when = measured_at(self.taken, self.recipe.optim, len(self.loader.rows), self.steps)
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

    def _output(self, own: Batch, batch: Batch) -> Output:
        """Return the output of this rank's share of `batch`.

        That of a rank without a sample has the shapes and types of the others': they are gathered.
        """
        if not len(own):
            with torch.no_grad():
                one = self._output(sliced(batch, slice(1)), batch)
            return sliced(one, slice(0))
        with self.ground.autocast(self.recipe):
            return self.mitigating.output(own, self._forward(self.net, own))

    def validating(
        self, rows: NDArray[np.int64]
    ) -> Generator[None, None, tuple[NDArray[np.float32], float]]:
        """Score `rows` after a pass, and tell an average that follows how the weights do.

        It pauses before every batch; the state may be taken once the generator is closed.
        """
        now = self.under_way
        if self.average is not None and self.average.follows and not (now and now.told):
            _, loss = yield from self._scoring(rows)
            self.average.passed(loss)
            if now is not None:
                now.told = True
        return (yield from self.scoring(rows))

    def validate(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], float]:
        """Return at a stretch what `validating` returns."""
        return at_a_stretch(self.validating(rows))

    def scoring(
        self, rows: NDArray[np.int64], *, fitted: bool = False
    ) -> Generator[None, None, tuple[NDArray[np.float32], float]]:
        """Return `(rows, outputs)` logits and the mean loss of `rows`, in their order.

        Without rows there are no scores, and the loss is NaN. It pauses as `validating` does.

        Args:
            rows: Rows of the pack, not augmented for it.
            fitted: They are those that the run is fitted on.
        """
        with nullcontext() if self.average is None else self.average.applied():
            return (yield from self._scoring(rows, fitted))

    def score(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], float]:
        """Return at a stretch what `scoring` returns."""
        return at_a_stretch(self.scoring(rows))

    def _scoring(
        self, rows: NDArray[np.int64], fitted: bool = False
    ) -> Generator[None, None, tuple[NDArray[np.float32], float]]:
        if not len(rows):
            return np.empty((0, self.ground.outputs), dtype=np.float32), math.nan
        mine = self.ranks.rows(rows)
        full = SCORE_BATCH if fitted or self.recipe.data.fold is not None else None
        serve = self.start.server(full, scored=True)
        text = self.ground.scored_text(self.recipe, self.net)
        loader = self.ground.loader(mine, SCORE_BATCH, edit=self.edit, serve=serve, text=text)
        # All ranks pause as often as the first, which has the most rows.
        pauses = math.ceil(math.ceil(len(rows) / self.ranks.world) / SCORE_BATCH)
        found = yield from scoring(
            self.net, loader, self._score, self.ground.autocast(self.recipe), pauses
        )
        if not len(mine):
            found = np.empty((0, self.ground.outputs), dtype=np.float32), math.nan
        return self.ranks.gather(*found)

    def weights(self) -> dict[str, Tensor]:
        """Return copies of everything that trained, or of its average, on the CPU."""
        held = self.trained if self.average is None else self.average.held
        return {name: p.detach().to("cpu", copy=True) for name, p in held.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on, for `load_state_dict`.

        The values are those of the lane, not copies; the random numbers are torch's own now.
        Several processes call it together, and each returns what all have.
        """
        schedule, now = self.schedule.state_dict(), self.under_way
        midst = now is not None and now.loss is None
        own = {
            "random": random_state(self.ground.device),
            "total": None if now is None else now.total.to("cpu"),
        }
        return {
            "trained": dict(self.trained),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {name: schedule[name] for name in _SCHEDULE},
            "loader": now.start if now is not None and midst else self.loader.state(),
            "taken": self.taken,
            "pass": None if now is None else now.state(),
            "methods": methods_state(self.net),
            "average": None if self.average is None else self.average.state(),
            "mitigations": self.mitigating.state() if self.mitigating else None,
            "ranks": self.ranks.all(own),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the lane that `state` is of would have, bit for bit on a CPU.

        As many processes as there were go on with a state of their own each; of any other number
        all have the random numbers of the first.

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
        self._take_own(state)

    def _take_own(self, state: Mapping[str, Any]) -> None:
        """Take from `state` what each process has for itself, and the pass under way."""
        # States from before there were passes under way are between two passes.
        every = state.get("ranks", [{"random": state.get("random"), "total": None}])
        same = len(every) == self.ranks.world
        mine = every[self.ranks.rank if same else 0]
        self.under_way = None
        if (now := state.get("pass")) is not None:
            parts = torch.stack([own["total"] for own in every])
            rest = parts.sum() if self.ranks.rank == 0 else torch.zeros(())
            total = mine["total"] if same else rest
            self.under_way = Pass.restored(now, self.loader.state(), total.to(self.ground.device))
        set_random_state(mine["random"], self.ground.device)
