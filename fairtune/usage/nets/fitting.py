"""A head of frozen embeddings fitted at once: L-BFGS over whatever of it trains.

In float64, but for networks, which have several minima and many values: those are fitted in fp32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairtune.usage.adapters import Adapter, Mix
from fairtune.usage.at_once import Floats, Problem
from fairtune.usage.nets.adapters import mix
from fairtune.usage.readout import balanced, mean_loss, softened

GRADIENT_TOLERANCE = 1e-6
LOSS_TOLERANCE = 1e-8
"""Relative change of the loss in a step below which a fit ends."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A head at one way of mixing.

    Attributes:
        tensors: Its tensors by name, fp32.
        score: `(held rows, outputs)` logits.
        loss: Mean loss over the fitted rows.
    """

    tensors: Mapping[str, Tensor]
    score: Floats
    loss: float


def each(head: nn.Module, adapter: Adapter, problem: Problem) -> Iterator[Fitted]:
    """Yield the head at every way of mixing that there is to choose from, in their order.

    Args:
        head: As it begins; left as it is.
        adapter: What is said of it.
        problem: What it is fitted to.
    """
    like = torch.float32 if adapter.refits else torch.float64
    device = next(iter(head.parameters())).device
    x, held = (
        torch.from_numpy(rows.x).to(device, like) for rows in (problem.fitted, problem.held)
    )
    base = copy.deepcopy(head).to(like)
    if adapter.trains and not adapter.refits:
        mix(base, adapter.start)
        minimise(base, x, problem, adapter.steps)
    for numbers in adapter.mixes:
        if adapter.trains and adapter.refits:
            base = copy.deepcopy(head).to(like)
            mix(base, numbers)
            minimise(base, x, problem, adapter.steps)
        yield _at(base, numbers, x, held, problem)


def minimise(head: nn.Module, x: Tensor, problem: Problem, steps: int) -> None:
    """Fit what of `head` trains: mean loss + l2/2 mean over rows of |logits - zero-shot logits|^2.

    The loss is that of the linear readout, with its class weights and smoothing. So the penalty
    is of what the head does, and means the same whatever the scale, the length of embeddings and
    the kind of head: towards infinity the head is zero-shot. A head may have several minima; what
    is returned follows from where it begins.

    Args:
        head: Changed in place.
        x: `(n, d)` or `(n, queries, d)` embeddings.
        problem: The rest.
        steps: Most steps.
    """
    from scipy import optimize

    trained = [p for p in head.parameters() if p.requires_grad]
    loss = _Loss(problem)
    with torch.no_grad():
        zero: Tensor = head.said(x)  # type: ignore[operator]

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        problem.told()
        _put(trained, flat)
        logits = head(x)
        value, gradient = loss.of(logits.detach().cpu().double().numpy())
        apart = (logits.detach() - zero) / len(zero)
        penalty = 0.5 * problem.l2 * float((apart * (logits.detach() - zero)).sum())
        towards = torch.from_numpy(gradient).to(zero) + problem.l2 * apart
        found = torch.autograd.grad(logits, trained, towards)
        return value + penalty, torch.cat([g.reshape(-1) for g in found]).cpu().double().numpy()

    begin = torch.cat([p.detach().reshape(-1) for p in trained]).cpu().double().numpy()
    options = {
        "maxiter": steps, "gtol": GRADIENT_TOLERANCE, "ftol": LOSS_TOLERANCE,
    }  # fmt: skip
    found = optimize.minimize(objective, begin, jac=True, method="L-BFGS-B", options=options)
    _put(trained, found.x)


class _Loss:
    """The mean loss of logits of the fitted rows, with its gradient."""

    def __init__(self, problem: Problem) -> None:
        label, task, outputs = problem.fitted.label, problem.task, problem.outputs
        self._task = task
        self._target = softened(label, task, outputs, problem.smoothing)
        self._weight = balanced(label, task, outputs) if problem.balance else None

    def of(self, logits: Floats) -> tuple[float, Floats]:
        return mean_loss(logits, self._target, self._task, self._weight)


def _put(trained: list[nn.Parameter], flat: NDArray[np.float64]) -> None:
    start = 0
    with torch.no_grad():
        for parameter in trained:
            part = flat[start : start + parameter.numel()].reshape(parameter.shape)
            parameter.copy_(torch.from_numpy(part))
            start += parameter.numel()


def _at(head: nn.Module, numbers: Mix, x: Tensor, held: Tensor, problem: Problem) -> Fitted:
    mix(head, numbers)
    # As it is stored, so that the scores are those of whoever restores it.
    tensors = {name: p.detach().float().cpu() for name, p in head.named_parameters()}
    stored = copy.deepcopy(head)
    stored.load_state_dict(tensors)
    with torch.no_grad():
        loss, _ = _Loss(problem).of(stored(x).cpu().double().numpy())
        return Fitted(tensors, stored(held).cpu().double().numpy(), loss)
