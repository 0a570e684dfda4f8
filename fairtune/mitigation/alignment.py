"""The term that draws the scores of every group to those of all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from fairtune.data.batch import Batch
from fairtune.errors import DataError
from fairtune.mitigation.context import Context, Groups
from fairtune.usage import Output, Task

if TYPE_CHECKING:
    from fairtune.mitigation.methods.sinkhorn import Sinkhorn

FLOOR = 1e-3
"""Least SD that scores are divided by."""


class Alignment:
    """The term of one run.

    Args:
        config: Which distance between which scores.
        context: The run.
        groups: The groups of each attribute with its weight.

    Raises:
        DataError: Anything but scores within one class of several targets, or embeddings that
            nothing changes.
    """

    def __init__(self, config: Sinkhorn, context: Context, groups: Mapping[Groups, float]) -> None:
        if config.given == "label" and config.score != "score" and context.task == "multilabel":
            raise DataError(
                f"the {config.score} of a sample is of all targets, and each has its own label",
                where="recipe.mitigations.sinkhorn.given",
                allowed=["none"],
                todo="write given: none, or score: score",
            )
        if config.score == "embedding" and context.frozen:
            raise DataError(
                "embeddings never change, and could not be aligned",
                where="recipe.mitigations.sinkhorn.score",
                todo="give a mask with units of the image's network, or align another score",
            )
        self._config, self._task, self._outputs = config, context.task, context.outputs
        total = sum(groups.values())
        self._groups = [(found, weight / total) for found, weight in groups.items()]
        self._queue: tuple[Tensor, ...] = ()
        self._unsolved = torch.zeros((), dtype=torch.long, device=context.device)
        self._steps = 0

    def term(self, batch: Batch, out: Output, first: bool) -> Tensor:
        """Return weight * mean over attributes, columns and strata of the distance."""
        x, label = self._looked_at(batch, out)
        codes = torch.stack([groups.of(batch) for groups, _ in self._groups], dim=1)
        now = (x, label, codes)
        held = tuple(torch.cat([a, b]) for a, b in zip(now, self._queue)) if self._queue else now
        if first:
            self._steps += 1
            self._remember(now)
        found = torch.zeros((), device=x.device)
        for column, (groups, share) in enumerate(self._groups):
            found = found + share * self._of(held[0], held[1], held[2][:, column], len(groups))
        return self._config.weight * found

    def _looked_at(self, batch: Batch, out: Output) -> tuple[Tensor, Tensor]:
        """Return what is aligned, `(b, columns, d)`, and the class in each column, `(b, columns)`.

        Without `given: label` all are of one class.
        """
        x = {
            "score": lambda: margins(out.score, self._task)[:, :, None],
            "similarity": lambda: _similarity(out)[:, None, None],
            "loss": lambda: out.loss[:, None, None],
            "embedding": lambda: out.embedding.float()[:, None],
        }[self._config.score]()
        if self._config.given == "none":
            label = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
        elif self._config.score == "score":
            label = _of_columns(batch.label, self._task, self._outputs)
        else:
            label = batch.label.long()[:, None]
        return x, label

    def _of(self, x: Tensor, label: Tensor, code: Tensor, count: int) -> Tensor:
        """Return the mean distance over columns and the strata that are large enough."""
        classes = 1
        if self._config.given == "label":
            several = self._task == "multiclass" and self._config.score != "score"
            classes = self._outputs if several else 2
        known = functional.one_hot(code.clamp(min=0).long(), count) * (code >= 0)[:, None]
        total, strata = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
        for column in range(x.shape[1]):
            inside = functional.one_hot(label[:, column], classes)
            member = torch.einsum("nc,ng->cgn", inside, known)
            enough = member.sum(dim=2) >= self._config.least
            member = member * enough[:, :, None]
            scaled = in_units_of_sd(
                x[:, column], member.sum(dim=(0, 1)), self._config.scale == "detached"
            )
            found, unsolved = self._config.distance.measure(scaled, member)  # type: ignore[attr-defined]
            if unsolved is not None:
                self._unsolved = self._unsolved + unsolved
            total = total + (found * enough).sum()
            strata = strata + enough.sum()
        return total / strata.clamp(min=1)

    def _remember(self, now: tuple[Tensor, ...]) -> None:
        size = self._config.queue
        if not size:
            return
        fresh = tuple(part.detach() for part in now)
        joined = (torch.cat(p) for p in zip(self._queue, fresh)) if self._queue else iter(fresh)
        self._queue = tuple(part[-size:] for part in joined)

    def state(self) -> dict[str, Any]:
        """Return queue and counts."""
        return {"queue": self._queue, "unsolved": self._unsolved, "steps": self._steps}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take queue and counts back."""
        device = self._unsolved.device
        self._queue = tuple(part.to(device) for part in state["queue"])
        self._unsolved, self._steps = state["unsolved"].to(device), int(state["steps"])

    def report(self) -> dict[str, Any]:
        """Return the steps, and the transport problems that did not converge in them."""
        return {"steps": self._steps, "unsolved": int(self._unsolved)}


def _similarity(out: Output) -> Tensor:
    found = out.similarity
    assert found is not None  # a recipe without pairs is refused before
    return found


def margins(score: Tensor, task: Task) -> Tensor:
    """Return the log-odds of every output: of a class against all others for several classes.

    Args:
        score: `(b, outputs)` logits.
        task: Kind of label.
    """
    if task != "multiclass":
        return score
    outputs = score.shape[1]
    apart = torch.eye(outputs, dtype=torch.bool, device=score.device)
    others = score[:, None, :].masked_fill(apart, -torch.inf).logsumexp(dim=2)
    return score - others


def in_units_of_sd(x: Tensor, counted: Tensor, detached: bool = False) -> Tensor:
    """Return `(x - mean) / sd`, of the samples that are counted.

    sd^2 is the mean squared distance to the mean, by dimension; floor 1e-3. Where it is above the
    floor the result is invariant to x -> c x + t, c > 0.

    Args:
        x: `(n, d)`.
        counted: `(n,)` of 0 and 1.
        detached: Take the sd as a number without gradient.
    """
    weight = counted[:, None].to(x.dtype) / counted.sum().clamp(min=1)
    kept = x.where(counted[:, None] > 0, torch.zeros_like(x))
    centred = kept - (kept * weight).sum(dim=0)
    variance = (centred.square() * weight).sum(dim=0).mean()
    spread = variance.clamp(min=FLOOR**2).sqrt()
    return centred / (spread.detach() if detached else spread)


def _of_columns(label: Tensor, task: Task, outputs: int) -> Tensor:
    """Return the class 0 or 1 of every sample in every column of the score."""
    if task == "multiclass":
        return functional.one_hot(label.long(), outputs)
    return label.long().reshape(len(label), outputs)
