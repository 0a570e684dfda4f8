"""Bad-pair mining: samples whose loss stays far from the others' count less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pydantic

from fairtune.config import Choice, Config, Float
from fairtune.mitigation import MITIGATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from fairtune.data.batch import Batch
    from fairtune.mitigation.context import Context
    from fairtune.mitigation.hooks import Hooks
    from fairtune.usage import Output


@MITIGATIONS.register("bad_pairs")
class BadPairs(Config):
    """Weigh the loss of sample i by w_i = exp(-(l_i - mu)^2 / (2 sd^2)) where it is flagged.

    m_i is a memory of the losses of row i over the passes, mu and sd are mean and standard
    deviation of m over the training rows. After `warmup` passes a row is flagged where
    m_i <= mu - low * sd (too easy) or m_i >= mu + high * sd (too hard). l_i is its loss now. Of
    pairs l is the loss less that of a guess, ln n of a batch of n: else those that come in a last,
    small batch would be the easy ones.

    Here the memory belongs to a row of the pack; the code of RobustFairCLIP keeps it by the number
    of a batch in a loader that shuffles, so that it belongs to nothing. The weight is the normal
    density divided by its peak, in (0, 1]; theirs is the density, which may raise a loss. What is
    remembered is the loss itself, not the weighted one. A group whose losses are larger is flagged
    more often: mining may silence a minority, so what it flags is reported by group.

    Attributes:
        warmup: Passes before anything is flagged.
        low: Standard deviations below the mean from which a row is too easy.
        high: Standard deviations above it from which a row is too hard.
        memory: `mean` over the passes with weights that rise linearly, as DBPM has it, or `ema`
            with decay .9.
    """

    paper: ClassVar[str] = (
        "Lan et al., Dynamic bad pair mining, ICLR 2024; Purdue-M2, RobustFairCLIP, MIPR 2025"
    )
    formula: ClassVar[str] = "flagged: loss * exp(-(l - μ)² / 2σ²)"
    slots: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = True
    mixes: ClassVar[bool] = False
    clashes: ClassVar[tuple[str, ...]] = ()

    warmup: Annotated[int, pydantic.Field(ge=1), Choice((1, 2))] = 1
    low: Annotated[float, pydantic.Field(gt=0), Float(1.0, 3.0)] = 2.0
    high: Annotated[float, pydantic.Field(gt=0), Float(1.0, 3.0)] = 2.0
    memory: Annotated[Literal["mean", "ema"], Choice(("mean", "ema"))] = "mean"

    @property
    def idle(self) -> tuple[str, ...]:
        """Every field acts."""
        return ()

    def build(self, context: Context) -> Hooks:
        """Return the weights of the samples."""
        from fairtune.mitigation.hooks import Hooks

        mining = _Mining(self, context)
        return Hooks(
            weights=mining.weights,
            passed=mining.passed,
            state=mining.state,
            load_state=mining.load_state,
            report=mining.report,
        )


DECAY = 0.9
TINY = 1e-6


class _Mining:
    """What is remembered of every row of the pack, on the device of the batches."""

    _KEPT = ("memory", "mass", "total", "count", "flagged", "centre")

    def __init__(self, config: BadPairs, context: Context) -> None:
        import torch

        self._config, self._context = config, context
        rows, device = context.pack_rows, context.device
        zeros = [torch.zeros(rows, device=device) for _ in range(4)]
        self.memory, self.mass, self.total, self.count = zeros
        self.flagged = torch.zeros(rows, dtype=torch.bool, device=device)
        self.centre = torch.tensor([0.0, 1.0], device=device)
        self._fitted = torch.from_numpy(context.row).to(device)

    def weights(self, batch: Batch, out: Output, first: bool) -> Tensor:
        """Return the `(b,)` factors of the losses; remember them at a first look."""
        import torch

        loss = out.loss.detach()
        if out.chance is not None:
            loss = loss - out.chance
        if first:
            self.total.index_add_(0, batch.row, loss)
            self.count.index_add_(0, batch.row, torch.ones_like(loss))
        mean, spread = self.centre
        weight = torch.exp(-((loss - mean) ** 2) / (2 * spread**2)).clamp(min=TINY)
        return torch.where(self.flagged[batch.row], weight, 1.0)

    def passed(self, number: int) -> None:
        """Take the losses of pass `number` into the memory, and flag rows after the warm-up."""
        import torch

        seen = self.count > 0
        loss = self.total / self.count.clamp(min=1)
        if self._config.memory == "mean":
            share = seen * (number / self._context.epochs)
            self.memory += share * loss
            self.mass += share
        else:
            keep = torch.where(self.mass > 0, DECAY, 0.0)
            self.memory = torch.where(seen, keep * self.memory + (1 - keep) * loss, self.memory)
            self.mass = torch.where(seen, torch.ones_like(self.mass), self.mass)
        self.total.zero_()
        self.count.zero_()
        if number >= self._config.warmup:
            self._flag()

    def _flag(self) -> None:
        import torch

        mean_loss = self.memory / self.mass.clamp(min=TINY)
        known = self.mass[self._fitted] > 0
        values = mean_loss[self._fitted]
        inside = known.sum().clamp(min=1)
        mean = (values * known).sum() / inside
        spread = (((values - mean) ** 2 * known).sum() / inside).sqrt().clamp(min=TINY)
        self.centre = torch.stack([mean, spread])
        easy = mean_loss <= mean - self._config.low * spread
        hard = mean_loss >= mean + self._config.high * spread
        self.flagged = (easy | hard) & (self.mass > 0)

    def report(self) -> dict[str, Any]:
        """Return rows and flagged rows, of all and of every group of every attribute."""
        flagged = self.flagged[self._fitted].cpu().numpy()
        found: dict[str, Any] = {"rows": len(flagged), "flagged": int(flagged.sum())}
        for column, (attribute, names) in enumerate(self._context.attributes.items()):
            code = self._context.group[:, column]
            found[f"by {attribute}"] = {
                name: {"rows": int((code == i).sum()), "flagged": int(flagged[code == i].sum())}
                for i, name in enumerate(names)
            }
        return found

    def state(self) -> dict[str, Any]:
        """Return the memory."""
        return {name: getattr(self, name) for name in self._KEPT}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take the memory back."""
        for name in self._KEPT:
            setattr(self, name, state[name].to(self._context.device).clone())
