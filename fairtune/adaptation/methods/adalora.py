"""AdaLoRA: LoRA as a singular value decomposition whose rank is spent where it helps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pydantic

from fairtune.adaptation.attach import Attached, Context
from fairtune.adaptation.fields import Alpha, Dropout, Rank
from fairtune.adaptation.methods import METHODS
from fairtune.config import Choice, Config, Float

if TYPE_CHECKING:
    from torch import Tensor, nn

WARM, SETTLED = 0.1, 0.2
IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What peft's allocator remembers of each tensor, by the names it has there."""


@METHODS.register("adalora")
class AdaLora(Config):
    """Train `P`, `Λ`, `Q` of `W' = W + (alpha/s) P Λ Q` and prune `Λ` to a budget.

    Every layer starts with `s = start * rank` singular values (rounded, at least `rank + 1`), `Λ`
    zero. After the first 10 % of the steps the number kept over all layers of the placement falls,
    by a cubic schedule, to `rank` times the number of layers; in the last 20 % it stays. The loss
    gains `orthogonality * mean(||P'P - I||, ||QQ' - I||)` (Frobenius).

    Attributes:
        rank: Mean rank at the end.
        start: Rank at the start as a multiple of `rank`.
        alpha: The update is multiplied by `alpha/s`.
        dropout: Of the layer's input.
        orthogonality: Weight of the orthogonality term.
    """

    paper: ClassVar[str] = "Zhang et al., AdaLoRA, ICLR 2023"
    formula: ClassVar[str] = "W' = W + (α/s) P Λ Q, Λ pruned"
    layers: ClassVar[str] = "linear, convolution"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    rank: Rank = 8
    start: Annotated[float, pydantic.Field(gt=1, le=8), Choice((1.5, 2.0))] = 1.5
    alpha: Alpha = 16
    dropout: Dropout = 0.0
    orthogonality: Annotated[float, pydantic.Field(ge=0), Float(0.01, 0.5, log=True)] = 0.1

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Wrap the layers of `units`.

        Raises:
            ModelError: A layer is not supported, smaller than the rank at the start, or there is
                none.
        """
        from peft import AdaLoraConfig, AdaLoraModel

        from fairtune.adaptation.layers import CONV, LINEAR, adaptable, check_rank
        from fairtune.adaptation.through_peft import inject, pattern, quiet

        layers = adaptable("adalora", units, context, {LINEAR, CONV})
        start = max(self.rank + 1, round(self.start * self.rank))
        check_rank("adalora", start, layers, "rank at the start")
        with quiet():
            config = AdaLoraConfig(
                target_r=self.rank,
                init_r=start,
                lora_alpha=self.alpha,
                lora_dropout=self.dropout,
                orth_reg_weight=self.orthogonality,
                total_step=context.steps,
                tinit=int(WARM * context.steps),
                tfinal=int(SETTLED * context.steps),
                target_modules=pattern([layer.name for layer in layers]),
            )
        made, tuner = inject(AdaLoraModel, config, layers, context)
        state, load_state = _memory(tuner.rankallocator, config)
        frames = {n: p for n, p in made.trained.items() if ".lora_A" in n or ".lora_B" in n}
        return replace(
            made,
            undecayed=frozenset(n for n in made.trained if ".lora_E" in n),
            penalty=lambda: self.orthogonality * orthogonality(frames),
            stepped=tuner.update_and_allocate,
            state=state,
            load_state=load_state,
        )


def orthogonality(frames: Mapping[str, nn.Parameter]) -> Tensor:
    """Return the mean over `frames` of `||F F' - I||`, each with its short side first."""
    import torch

    terms = []
    for frame in frames.values():
        short = frame if frame.shape[0] <= frame.shape[1] else frame.T
        eye = torch.eye(short.shape[0], device=frame.device, dtype=frame.dtype)
        terms.append(torch.linalg.matrix_norm(short @ short.T - eye))
    return torch.stack(terms).mean()


def _memory(
    allocator: Any, config: Any
) -> tuple[Callable[[], dict[str, Any]], Callable[[dict[str, Any]], None]]:
    """Return how to read, and how to put back, what peft's allocator remembers."""

    def state() -> dict[str, Any]:
        kept = {name: dict(getattr(allocator, name)) for name in IMPORTANCE}
        return {**kept, "kept": config.rank_pattern}

    def load_state(state: dict[str, Any]) -> None:
        for name in IMPORTANCE:
            setattr(allocator, name, dict(state[name]))
        config.rank_pattern = state["kept"]

    return state, load_state
