"""The mitigations of one run at work, together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fairtune.config.registry import name_of
from fairtune.data.batch import Batch
from fairtune.mitigation import SLOTS
from fairtune.mitigation.context import Context
from fairtune.mitigation.hooks import Averager, Hooks, Identify, Order
from fairtune.training.recipe import Recipe, Seeds
from fairtune.usage import Output
from fairtune.usage.losses import sample_loss

if TYPE_CHECKING:
    from fairtune.models.net import Net
    from fairtune.training.ground import Ground

_STREAM = 0x4D4954
"""Keeps what mitigations draw apart from others of the same seed."""


class Mitigating:
    """What the mitigations of a recipe do in one run.

    Args:
        recipe: A resolved recipe.
        seeds: Seeds of the run.
        ground: Data and model.
        net: The run's net.

    Raises:
        DataError: The fitted rows have nothing that one of them could act on.
    """

    def __init__(self, recipe: Recipe, seeds: Seeds, ground: Ground, net: Net) -> None:
        acting = [m for m in recipe.mitigations if m.trains]  # type: ignore[attr-defined]
        self.hooks: dict[str, Hooks] = {}
        self.measured: dict[str, dict[str, dict[str, Any]]] = {}
        self._task = ground.task
        if not acting:
            return
        context = _context(recipe, seeds, ground, net)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.hooks = {name_of(m): m.build(context) for m in acting}  # type: ignore[attr-defined]
        for hooks in self.hooks.values():
            for module in hooks.modules.values():
                module.to(ground.device).train()

    def __bool__(self) -> bool:
        return bool(self.hooks)

    @property
    def order(self) -> Order | None:
        """What draws the order of a pass, if not the loader."""
        return next((h.sampler for h in self.hooks.values() if h.sampler is not None), None)

    @property
    def beside(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Peak learning rate and parameters of what trains beside the model."""
        return [
            (hooks.lr, [p for module in hooks.modules.values() for p in module.parameters()])
            for hooks in self.hooks.values()
            if hooks.modules
        ]

    @property
    def identify(self) -> list[Identify]:
        """The first fits that the run needs."""
        return [h.identify for h in self.hooks.values() if h.identify is not None]

    @property
    def twice(self) -> bool:
        """Whether a step may look at its batches again."""
        return any(h.step is not None for h in self.hooks.values())

    @property
    def looks(self) -> bool:
        """Whether samples are weighted or a term is added, for which a batch is looked at."""
        return any(h.weights or h.loss for h in self.hooks.values())

    def average(self, trained: Mapping[str, nn.Parameter]) -> Averager | None:
        """Return the average that a mitigation keeps of `trained`, if any does."""
        makers = [h.average for h in self.hooks.values() if h.average is not None]
        return makers[0](trained) if makers else None

    def output(self, batch: Batch, out: Output) -> Output:
        """Return `out` with the score that a mitigation trains with, if any has its own."""
        for hooks in self.hooks.values():
            if hooks.head is not None:
                score = hooks.head(batch, out.embedding).float()
                return dataclasses.replace(
                    out, score=score, loss=sample_loss(score, batch.label, self._task)
                )
        return out

    def step(
        self, gradient: Callable[[bool], Tensor], parameters: Iterable[nn.Parameter]
    ) -> Tensor:
        """Compute the gradient of a step as a mitigation wants it; return the summed loss."""
        for hooks in self.hooks.values():
            if hooks.step is not None:
                return hooks.step(gradient, parameters)
        return gradient(True)

    def weights(self, batch: Batch, out: Output, first: bool) -> Tensor | None:
        """Return the `(b,)` product of all factors of the samples' loss; None without any."""
        found = [h.weights(batch, out, first) for h in self.hooks.values() if h.weights]
        return torch.stack(found).prod(dim=0) if found else None

    def terms(self, batch: Batch, out: Output, first: bool) -> dict[str, Tensor]:
        """Return the terms that are added to the mean loss, by mitigation."""
        return {name: h.loss(batch, out, first) for name, h in self.hooks.items() if h.loss}

    def stepped(self) -> None:
        """Tell all that a step was made."""
        for hooks in self.hooks.values():
            if hooks.stepped is not None:
                hooks.stepped()

    def passed(self, number: int) -> None:
        """Tell all that pass `number`, counted from 1, was made."""
        for hooks in self.hooks.values():
            if hooks.passed is not None:
                hooks.passed(number)

    def measure(self, when: str, task: Tensor, terms: Mapping[str, Tensor], out: Output) -> None:
        """Note how large each term is beside the task loss, itself and in its gradient.

        Gradients are those with respect to where every term and the task meet: what is compared
        of images and texts, else the embedding; of frozen features, which have none, the score.

        Args:
            when: `start` or `end`.
            task: The mean task loss, with its graph.
            terms: The terms, each with its graph.
            out: What both were computed of.
        """
        at = _meeting(out)
        base = _norm(task, at)
        for name, term in terms.items():
            ratio = {
                "loss": term.detach() / task.detach().abs(),
                "gradient": _norm(term, at) / base,
            }
            self.measured.setdefault(name, {})[when] = ratio

    def report(self) -> dict[str, Any]:
        """Return what is to be known of each mitigation, as JSON."""
        found: dict[str, Any] = {}
        for name, hooks in self.hooks.items():
            said = {} if hooks.report is None else hooks.report()
            for when, ratio in self.measured.get(name, {}).items():
                said[when] = {key: _number(value) for key, value in ratio.items()}
            if said:
                found[name] = said
        return found

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on, for `restore`; not a copy."""
        return {
            "hooks": {n: h.state() for n, h in self.hooks.items() if h.state is not None},
            "modules": {
                name: {key: module.state_dict() for key, module in hooks.modules.items()}
                for name, hooks in self.hooks.items()
            },
            "measured": {
                name: {
                    when: {k: _number(v) for k, v in ratio.items()} for when, ratio in at.items()
                }
                for name, at in self.measured.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the mitigations that `state` is of would have."""
        self.measured = {name: dict(at) for name, at in state["measured"].items()}
        for name, hooks in self.hooks.items():
            for key, module in hooks.modules.items():
                module.load_state_dict(state["modules"][name][key])
            if hooks.load_state is not None:
                hooks.load_state(state["hooks"][name])


def _context(recipe: Recipe, seeds: Seeds, ground: Ground, net: Net) -> Context:
    rows = ground.fit_rows(recipe)
    taken = {slot for m in recipe.mitigations for slot in m.slots}  # type: ignore[attr-defined]
    spec = ground.pack.table.spec
    return Context(
        label=ground.labels(rows),
        group=ground.pack.groups(rows),
        row=rows,
        pack_rows=len(ground.pack),
        attributes={name: tuple(spec.attribute(name).names) for name in recipe.data.attributes},
        task=ground.task,
        outputs=ground.outputs,
        dim=recipe.usage.dim(ground.backbone),
        epochs=recipe.optim.epochs,
        head=net.head,
        head_lr=recipe.optim.head_lr,
        seed=seeds.init ^ _STREAM,
        device=ground.device,
        free=frozenset(SLOTS) - taken,
        frozen=recipe.head_only or (recipe.usage.pairs and not net.backbone.image_trains),
    )


def _meeting(out: Output) -> list[Tensor]:
    """Return the tensors through which every term and the task reach what trains."""
    compared = [] if out.text is None else [out.image, out.text]
    for choice in (compared, [out.embedding], [out.score]):
        found = [at for at in choice if at is not None and at.requires_grad]
        if found:
            return found
    return []


def _norm(value: Tensor, at: list[Tensor]) -> Tensor:
    if not value.requires_grad or not at:
        return torch.zeros((), device=value.device)
    parts = torch.autograd.grad(value, at, retain_graph=True, allow_unused=True)
    squares = [part.float().pow(2).sum() for part in parts if part is not None]
    return torch.stack(squares).sum().sqrt() if squares else value.new_zeros(())


def _number(value: Any) -> float | None:
    """Return a finite number, None for any other: JSON has no infinity."""
    number = float(value)
    return number if abs(number) < float("inf") else None
