"""The network that everything else is built round."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import safetensors
import torch
from torch import nn

from fairtune.models import split
from fairtune.models import weights as weights_
from fairtune.models.language import LanguageNet, is_language, sides
from fairtune.models.partition import partition
from fairtune.models.spec import ModelSpec
from fairtune.models.units import Units
from fairtune.models.weights import Weights

if TYPE_CHECKING:
    from fairtune.models.answers import Answers


JOINT: Literal["joint"] = "joint"
"""Stands, in place of a block, for what of an image is compared with texts."""

Cut = int | Literal["joint"] | None
"""Up to where a network is computed: before a block; None for the embedding."""


class Backbone(nn.Module):
    """A pretrained network without a head.

    Attributes:
        net: The loader's module; its parameter names are the names in `Units`.
        dim: Length of an embedding.
        starts_at: Block before which what `embed` is given stands; 0 for an image.
        plain: Whether attention is computed by plain matrix products.
        checkpointing: Whether the backward pass computes the inside of each block again instead
            of keeping it; for networks that can be cut (`depth` above 0).
        through: Computes the blocks in place of calling them; for networks that can be cut.
    """

    def __init__(self, net: nn.Module, dim: int) -> None:
        super().__init__()
        self.net = net
        self.dim = dim
        self.starts_at = 0
        self.plain = False
        self.checkpointing = False
        self.through: split.Through | None = None

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Return what the blocks make of an image, before it is pooled.

        Images of a network whose `tokens` are 0 (a CNN) are laid out with channels last, which
        its convolutions hand on to all that they compute; values are the same up to rounding.

        Args:
            image: Normalised images `(batch, channels, height, width)`; what `front` returned
                where the backbone starts behind the stem (`starts_at`).
        """
        if not self.tokens and self.differentiable:
            image = image.contiguous(memory_format=torch.channels_last)
        if self.starts_at or self.checkpointing or self.through is not None:
            hidden = image if self.starts_at else split.front(self.net, image, 0)
            return split.rest(
                self.net,
                hidden,
                self.starts_at,
                checkpointing=self.checkpointing,
                through=self.through,
            )
        found: torch.Tensor = self.net.forward_features(image)  # type: ignore[operator]
        return found

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Return pooled features `(batch, dim)` as the architecture defines them.

        Args:
            image: As `features` takes it.
        """
        features = self.features(image)
        pooled: torch.Tensor = self.net.forward_head(features, pre_logits=True)  # type: ignore[operator]
        return pooled

    @property
    def reads(self) -> bool:
        """Whether it has a text tower."""
        return is_language(self.net)

    @property
    def language(self) -> LanguageNet:
        """The network, of images and texts."""
        assert is_language(self.net)
        return self.net

    def joint(self, image: torch.Tensor) -> torch.Tensor:
        """Return what is compared with texts, `(batch, d)` or `(batch, queries, d)`.

        Args:
            image: As `features` takes it.
        """
        return self.language.joint(self.features(image))

    def words(self, text: torch.Tensor) -> torch.Tensor:
        """Return `(texts, d)` of token numbers `(texts, length)`, or such vectors as they are."""
        return text if text.is_floating_point() else self.language.words(text)

    @property
    def text_trains(self) -> bool:
        """Whether something trains that what is compared of a text goes through."""
        return self._trains("text")

    @property
    def image_trains(self) -> bool:
        """Whether something trains that what is compared of an image goes through."""
        return self._trains("image")

    def _trains(self, side: str) -> bool:
        return any(
            p.requires_grad and side in self._sides(name)
            for name, p in self.net.named_parameters()
        )

    def _sides(self, name: str) -> frozenset[str]:
        return sides(self.net, name) if is_language(self.net) else frozenset({"image"})

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return `embed(image)`."""
        return self.embed(image)

    def front(self, image: torch.Tensor, cut: int) -> torch.Tensor:
        """Return what stands before block `cut`: the stem and the blocks below it, applied.

        A backbone that starts at `cut` makes of it, bit for bit, what a whole one makes of
        `image`.

        Args:
            image: Normalised images `(batch, channels, height, width)`.
            cut: 1 to `depth`.
        """
        return split.front(self.net, image, cut)

    @property
    def depth(self) -> int:
        """Blocks the network can be cut behind; 0 where it cannot be cut."""
        return split.depth(self.net)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks it can be cut behind, in their order."""
        held: Any = getattr(split.image_of(self.net), "blocks", ())
        return list(held) if self.depth else []

    @property
    def first_trained(self) -> int:
        """First block that trains; 0 also when the stem does, `depth` when no block does."""
        return split.first_trained(self.net)

    def before(self, cut: Cut) -> dict[str, torch.Tensor]:
        """Return the tensors that `front(..., cut)` depends on, by name.

        Of a network of several towers those of the image tower, under their names in it; for None
        also what stands behind it, under its name in the network.

        Args:
            cut: None stands for all of them, those of `embed`; `JOINT` for the whole network's.
        """
        if cut == JOINT:
            whole: dict[str, torch.Tensor] = self.net.state_dict()
            return whole
        if cut is None:
            tower: dict[str, torch.Tensor] = split.image_of(self.net).state_dict()
            return tower | {
                name: tensor
                for name, tensor in self.net.state_dict().items()
                if not name.startswith("image.") and "image" in self._sides(name)
            }
        assert isinstance(cut, int)
        return split.before(self.net, cut)

    def plain_attention(self) -> None:
        """Compute attention by plain matrix products instead of torch's fused kernel.

        On a CPU the fused kernel's backward pass is the slowest part of a step with few tokens.
        Equal up to rounding; takes memory for `(batch, heads, tokens, tokens)`.
        """
        self.plain = True
        for module in self.net.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]

    @property
    def never_decayed(self) -> frozenset[str]:
        """Tensors that the architecture exempts from weight decay: positions and class tokens."""
        named = getattr(self.net, "no_weight_decay", None)
        return frozenset(named()) if callable(named) else frozenset()

    @property
    def tokens(self) -> int:
        """Image tokens of an input; 0 where the architecture has none."""
        tower = split.image_of(self.net)
        own = getattr(tower, "patches", None)
        embed = getattr(tower, "patch_embed", None)
        return own if isinstance(own, int) else int(getattr(embed, "num_patches", 0))

    @property
    def differentiable(self) -> bool:
        """Whether gradients reach parameters and image; False for an endpoint."""
        return bool(getattr(self.net, "differentiable", True))

    @property
    def answers(self) -> Answers | None:
        """What an endpoint has answered so far, and what it was asked; None for a network."""
        found: Answers | None = getattr(self.net, "answers", None)
        return found

    def obeys(self, poll: Callable[[], str | None]) -> None:
        """Leave what waits for somebody else, an endpoint, when `poll` has a reason to."""
        told = getattr(self.net, "obeys", None)
        if told is not None:
            told(poll)

    @property
    def classifier(self) -> str:
        """What the architecture calls its head: `head`, `fc`, `head.fc`, ..."""
        record = getattr(self.net, "pretrained_cfg", None)
        name = record.get("classifier") if isinstance(record, dict) else None
        return name if isinstance(name, str) else "head"

    def tensors(self) -> dict[str, nn.Parameter]:
        """Return the parameters under the names that `Units` uses."""
        return dict(self.net.named_parameters())


def build(
    spec: ModelSpec, image_size: int | None, weights: Weights | None, *, seed: int = 0
) -> Backbone:
    """Return the backbone in evaluation mode, float32, on the CPU, every parameter trainable.

    Parameters are private memory maps of the stored file: pages are shared between networks and
    processes until they are written to.

    Args:
        spec: The model.
        image_size: Side of the square input in pixels; None for the spec's default.
        weights: What `weights.resolve` returned, for an endpoint too; None for random
            initialisation.
        seed: Seed of the random initialisation; without effect when weights are given.

    Raises:
        ModelError: The size or the weights do not fit the architecture.
    """
    side = spec.side(image_size)
    net: Any
    if weights is None:
        net = spec.seeded(side, seed)
    elif spec.endpoint is not None:
        net = spec.filled(side, weights.path)
    else:
        file = _sized(spec, side, weights)
        if not file.is_file():
            # The store's cap may have removed it since.
            _sized.cache_clear()
            file = _sized(spec, side, weights)
        net = _mapped(spec, side, file)
    return Backbone(net, int(net.num_features)).eval()


def describe(spec: ModelSpec, image_size: int | None = None) -> Units:
    """Return the units of the model at `image_size`, without values and in a fraction of a second.

    Raises:
        ModelError: The size or the declared units do not fit the architecture.
        Problems: Several faults of the declared units.
    """
    return _described(spec, spec.side(image_size))


@lru_cache(maxsize=32)
def _described(spec: ModelSpec, side: int) -> Units:
    net = spec.outline(side)
    return partition(spec.units, [(name, p.numel()) for name, p in net.named_parameters()])


@lru_cache(maxsize=32)
def _sized(spec: ModelSpec, side: int, weights: Weights) -> Path:
    # Checking the checksums costs more than building, so once per process.
    return weights_.sized(spec, side, weights)


def _mapped(spec: ModelSpec, side: int, file: Path) -> nn.Module:
    net: nn.Module = spec.outline(side)
    with safetensors.safe_open(file, "pt") as opened:
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if any(name not in state and held.is_meta for name, held in net.named_buffers()):
        # Buffers that no file holds are computed by the constructor and have no meta value.
        net = spec.seeded(side, 0)
    net.load_state_dict(state, assign=True)
    return net
