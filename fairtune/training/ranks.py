"""Several processes that share every batch of one run, as torchrun starts them.

Rank 0 runs the command; the others `follow` it from run to run. Each takes its share of every
batch, and the sum of their gradients is that of the whole batch, so that all weights stay equal.
With one process nothing is sent and nothing differs.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from fairtune.config import Settings
from fairtune.data.batch import Batch
from fairtune.errors import LOST, ConfigError, FairtuneError, Interrupted, RunError
from fairtune.usage import Output

T = TypeVar("T")
Held = TypeVar("Held", Batch, Output)

_PATIENCE = timedelta(days=30)
"""The others wait while rank 0 packs images, scores the test split, or has no trial to run."""

_STALLED = timedelta(minutes=30)
"""Nobody waits longer for the others before a step: a machine that has gone does not say so."""


_STOPS = 2
"""Above 1, which says that something is due."""


class Dismissed(Exception):
    """Rank 0 has ended its work: so does this process."""


class Agreed(Exception):
    """What failed in one process failed in all: they are at the same place, and stay together.

    Args:
        error: What failed.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Ranks:
    """This process among those that make a run.

    Attributes:
        rank: Its number, from 0.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.world == 1

    def share(self, batch: Batch) -> Batch:
        """Return this rank's samples of `batch`; none when it has fewer than there are ranks."""
        if self.alone:
            return batch
        return sliced(batch, slice(self.rank, None, self.world))

    def part(self, value: Tensor) -> Tensor:
        """Return this rank's samples of a tensor of all samples of a batch."""
        return value if self.alone else value[self.rank :: self.world]

    def whole(self, out: Output, size: int) -> Output:
        """Return the output of all `size` samples of a batch, of which `out` is this rank's share.

        Only the share has a graph, and its gradient counts once for every rank: where each rank
        divides a term of the whole by their number, gradients add up to those of the term, those
        of the share as those of what every rank has.

        Raises:
            RunError: Another process is gone.
        """
        if self.alone:
            return out
        return _each(out, lambda own: self._gathered(own, size))

    def _gathered(self, own: Tensor, size: int) -> Tensor:
        most = math.ceil(size / self.world)
        padded = own.new_zeros((most, *own.shape[1:]))
        padded[: len(own)] = own.detach()
        held = [torch.empty_like(padded) for _ in range(self.world)]
        with _talking():
            distributed.all_gather(held, padded)
        found = own.new_empty((size, *own.shape[1:]))
        for rank, theirs in enumerate(held):
            place = slice(rank, None, self.world)
            found[place] = theirs[: len(found[place])]
        # The same values, bit for bit, also in half precision.
        found[self.rank :: self.world] = own.detach() + self.world * (own - own.detach())
        return found

    def add_up(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the ranks; one that is missing counts as 0.

        Raises:
            RunError: Another process is gone.
        """
        if self.alone:
            return
        held = list(parameters)
        for p in held:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in held if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        with _talking():
            distributed.all_reduce(flat)
        parts = torch.split(flat, [g.numel() for g in gradients])
        for g, part in zip(gradients, parts, strict=True):
            g.copy_(part.view_as(g))

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of `value` over the ranks.

        Raises:
            RunError: Another process is gone.
        """
        if not self.alone:
            value = value.clone()
            with _talking():
                distributed.all_reduce(value)
        return value

    def agree(self, reason: str | None, due: bool = False) -> tuple[str | None, bool]:
        """Return a reason to stop if any rank has one, the first one's, and whether any is due.

        Args:
            reason: Why this process would stop, or None.
            due: Something is due that all do together.

        Raises:
            RunError: Another process is gone.
        """
        if self.alone:
            return reason, due
        # One number on the CPU a step: asking for the words, or the device, would cost more.
        level = torch.tensor([_STOPS if reason is not None else int(due)], dtype=torch.int32)
        with _talking():
            asked = distributed.all_reduce(level, op=distributed.ReduceOp.MAX, async_op=True)
            asked.wait(_STALLED)
        if level.item() < _STOPS:
            return None, bool(level.item())
        return next(found for found in self.all(reason) if found is not None), due

    def lead(self, value: T) -> T:
        """Return the value of rank 0.

        Raises:
            Dismissed: Rank 0 has nothing more to do.
            RunError: Another process is gone.
        """
        if self.alone:
            return value
        held: list[Any] = [value]
        with _talking():
            distributed.broadcast_object_list(held, src=0)
        if self.rank and isinstance(held[0], Dismissed):
            raise held[0]
        first: T = held[0]
        return first

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this rank's share of `rows`."""
        return rows[self.rank :: self.world]

    def gather(self, part: NDArray[np.float32], mean: float) -> tuple[NDArray[np.float32], float]:
        """Return what all ranks have for their `rows`, in the order of all rows.

        Args:
            part: `(its rows, outputs)`.
            mean: Mean of something over its rows; its mean over all rows is returned.

        Raises:
            RunError: Another process is gone.
        """
        if self.alone:
            return part, mean
        found: list[tuple[NDArray[np.float32], float]] = self.all((part, mean))
        whole = np.empty((sum(len(p) for p, _ in found), part.shape[1]), dtype=part.dtype)
        for rank, (theirs, _) in enumerate(found):
            whole[rank :: self.world] = theirs
        return whole, sum(len(p) * m for p, m in found if len(p)) / len(whole)

    def all(self, value: T) -> list[T]:
        """Return what every rank has for `value`, in their order.

        Raises:
            RunError: Another process is gone.
        """
        if self.alone:
            return [value]
        held: list[Any] = [None] * self.world
        with _talking():
            distributed.all_gather_object(held, value)
        return held


def sliced(held: Held, part: slice) -> Held:
    """Return the samples `part` of a batch, or of its output."""
    return _each(held, lambda value: value[part])


def _each(held: Held, change: Callable[[Tensor], Tensor]) -> Held:
    """Return `held` with every tensor of it changed."""
    values = {field.name: getattr(held, field.name) for field in dataclasses.fields(held)}
    changed: dict[str, Any] = {
        name: change(v) for name, v in values.items() if isinstance(v, Tensor)
    }
    return dataclasses.replace(held, **changed)


def current() -> Ranks:
    """Return this process among those that `joined` has brought together."""
    if not distributed.is_available() or not distributed.is_initialized():
        return Ranks()
    return Ranks(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def joined(settings: Settings) -> Iterator[Ranks]:
    """Join the processes that torchrun started for this command; without it there is one.

    Sums on an accelerator go through NCCL, on a CPU, and all words, through gloo.
    """
    if settings.processes == 1:
        yield Ranks()
        return
    backend = "gloo"
    if settings.device in (None, "cuda") and torch.cuda.is_available():
        torch.cuda.set_device(settings.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    # Imported later, as by optimisers, it would keep the group, and its threads, to the very end.
    importlib.import_module("torch.distributed.nn.functional")
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield current()
    finally:
        part()


def part() -> None:
    """Part from the other processes; those that wait for this one learn that it has gone."""
    if not current().alone:
        distributed.destroy_process_group()


def parted(end: object) -> RunError:
    """Return that this process has parted from the others, and makes no run without them.

    Args:
        end: The error in which the run ended.
    """
    if isinstance(end, RunError) and end.reason == LOST:
        return end
    return RunError(
        "the processes that share this run have parted",
        reason=LOST,
        found=str(end).splitlines()[0] if str(end) else type(end).__name__,
        todo="give the command again; what is finished is kept",
    )


def agreed(make: Callable[[], T]) -> T:
    """Return what `make` returns, once it has done so in every process.

    Raises:
        Agreed: It failed here or, with its words, in another process; so it does in all.
        RunError: Another process is gone.
    """
    ranks = current()
    if ranks.alone:
        return make()
    made: list[T] = []
    fault: Exception | None = None
    try:
        made.append(make())
    except Exception as error:
        fault = error
    every = ranks.all(None if fault is None else _Fault.of(fault))
    found = [one for one in every if one is not None]
    if not found:
        return made[0]
    raise Agreed(fault if fault is not None else found[0].error()) from fault


@dataclass(frozen=True)
class _Fault:
    """What failed in another process, in words.

    Attributes:
        said: The message.
        left: Why that process was to stop, if it was.
    """

    said: str
    left: str | None = None

    @classmethod
    def of(cls, error: Exception) -> _Fault:
        return cls(str(error), str(error.found) if isinstance(error, Interrupted) else None)

    def error(self) -> FairtuneError:
        if self.left is not None:
            return Interrupted("another process of this run was stopped", found=self.left)
        return RunError(
            "another process of this run cannot go on", reason="error", found=self.said
        )


def not_together(count: int) -> ConfigError:
    """Return that `count` runs at once cannot be shared by several processes."""
    return ConfigError(
        "processes that share the batches of a run make one run at a time",
        where="--together",
        found=count,
        allowed=1,
        todo="leave --together out, or start the command without torchrun",
    )


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            "another process of this run has ended",
            reason=LOST,
            found=str(error).splitlines()[0],
            todo="its own message says why",
        ) from None
