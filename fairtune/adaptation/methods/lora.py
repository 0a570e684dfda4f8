"""LoRA and two variants of it: rank-stabilised, and with weights decomposed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from fairtune.adaptation.attach import Attached, Context, together
from fairtune.adaptation.fields import Alpha, Dropout, Rank
from fairtune.adaptation.methods import METHODS
from fairtune.config import Choice, Config

Targets = Literal["all", "qkv", "qk", "qv", "kv", "q", "k", "v"]


@METHODS.register("lora")
class Lora(Config):
    """Add a product of two thin matrices to every adapted weight.

    `W' = W + (alpha/rank) B A`, `A` `(rank, in)` uniform, `B` `(out, rank)` zero; a convolution's
    `A` is a convolution to `rank` channels. The bias of an adapted layer stays frozen.

    Attributes:
        rank: Rank of the update.
        alpha: The update is multiplied by `alpha/rank`.
        dropout: Of the layer's input, before `A`.
        targets: `all` masked layers, or only the parts of attention named by their letters:
            the layers `query`, `key` and `value` where they are apart; on a fused `qkv` layer each
            named part has a pair of its own, as in loralib's merged layers. Other layers of the
            mask stay frozen.
    """

    paper: ClassVar[str] = "Hu et al., LoRA, ICLR 2022"
    formula: ClassVar[str] = "W' = W + (α/r) B A"
    layers: ClassVar[str] = "linear, convolution; q, k, v of fused or split attention"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    rank: Rank = 8
    alpha: Alpha = 16
    dropout: Dropout = 0.0
    targets: Annotated[Targets, Choice(("all", "qkv", "qv"))] = "all"

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Wrap the layers of `units`, or their attention parts.

        Raises:
            ModelError: A layer is not supported, smaller than the rank, or there is none.
        """
        if self.targets == "all":
            return _inject("lora", self, units, context)
        from fairtune.adaptation import attention

        parts = attention.parts("lora", self.targets, units, context)
        made = []
        if parts.fused:
            scale = self.alpha / self.rank
            args = (parts.fused, self.targets, self.rank, scale, self.dropout)
            made.append(attention.sliced("lora", *args))
        if parts.split:
            made.append(_wrap("lora", self, parts.split, context))
        return made[0] if len(made) == 1 else together(made)


@METHODS.register("rslora")
class RsLora(Config):
    """LoRA whose factor keeps the size of the update when the rank grows.

    `W' = W + (alpha/sqrt(rank)) B A`, else as `lora`.

    Attributes:
        rank: Rank of the update.
        alpha: The update is multiplied by `alpha/sqrt(rank)`.
        dropout: Of the layer's input, before `A`.
    """

    paper: ClassVar[str] = "Kalajdzievski, A Rank Stabilization Scaling Factor for LoRA, 2023"
    formula: ClassVar[str] = "W' = W + (α/√r) B A"
    layers: ClassVar[str] = "linear, convolution"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    rank: Rank = 8
    alpha: Alpha = 8
    dropout: Dropout = 0.0

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Wrap the layers of `units`.

        Raises:
            ModelError: A layer is not supported, smaller than the rank, or there is none.
        """
        return _inject("rslora", self, units, context, use_rslora=True)


@METHODS.register("dora")
class Dora(Config):
    """LoRA on the direction of a weight, with its length trained apart.

    `W' = m (W + (alpha/rank) B A) / ||W + (alpha/rank) B A||`, the norm by output row, `m`
    `(out,)` started at `||W||`.

    Attributes:
        rank: Rank of the update of the direction.
        alpha: That update is multiplied by `alpha/rank`.
        dropout: Of the layer's input, before `A`.
    """

    paper: ClassVar[str] = "Liu et al., DoRA, ICML 2024"
    formula: ClassVar[str] = "W' = m (W + (α/r) B A) / ‖W + (α/r) B A‖"
    layers: ClassVar[str] = "linear, convolution"
    merges: ClassVar[bool] = True
    starts_unchanged: ClassVar[bool] = True

    rank: Rank = 8
    alpha: Alpha = 16
    dropout: Dropout = 0.0

    def attach(self, units: Sequence[str], context: Context) -> Attached:
        """Wrap the layers of `units`.

        Raises:
            ModelError: A layer is not supported, smaller than the rank, or there is none.
        """
        made = _inject("dora", self, units, context, use_dora=True)
        lengths = frozenset(name for name in made.trained if "magnitude" in name)
        return replace(made, undecayed=lengths)


def _inject(
    name: str, fields: Any, units: Sequence[str], context: Context, **more: Any
) -> Attached:
    from fairtune.adaptation.layers import CONV, LINEAR, adaptable

    layers = adaptable(name, units, context, {LINEAR, CONV})
    return _wrap(name, fields, layers, context, **more)


def _wrap(
    name: str, fields: Any, layers: Sequence[Any], context: Context, **more: Any
) -> Attached:
    from peft import LoraConfig, LoraModel

    from fairtune.adaptation.layers import check_rank
    from fairtune.adaptation.through_peft import inject, pattern

    check_rank(name, fields.rank, layers)
    config = LoraConfig(
        r=fields.rank,
        lora_alpha=fields.alpha,
        lora_dropout=fields.dropout,
        target_modules=pattern([layer.name for layer in layers]),
        **more,
    )
    return inject(LoraModel, config, layers, context)[0]
