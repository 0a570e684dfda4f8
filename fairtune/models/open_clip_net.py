"""The one place that calls open_clip: both towers of one of its models.

open_clip may keep the text tower's tensors at the top level; here all of them are below `text`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairtune.errors import ModelError, did_you_mean
from fairtune.models import made, split
from fairtune.models.language import attended
from fairtune.models.towers import Towers

if TYPE_CHECKING:
    from fairtune.models.spec import ModelSpec

_POSITIONS = {
    "image.visual.positional_embedding": 1,
    "image.visual.attnpool.positional_embedding": 1,
}
# Tensors of the text tower that open_clip may keep at the top level.
_TEXT = (
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
)
_PARALLEL = "module."
# An archive of OpenAI's holds these numbers as tensors.
_NUMBERS = ("input_resolution", "context_length", "vocab_size")


class Vit(nn.Module):
    """open_clip's own vision transformer, with the methods of a timm network.

    Attributes:
        visual: open_clip's module.
        num_features: Length of an embedding, that of the joint space.
        embed_dim: Length of a token.
        num_prefix_tokens: Tokens before those of the image: the class token.
        patches: Tokens of the image.
        patch_size: Side of a patch in pixels.
    """

    num_prefix_tokens = 1
    blocks_path = "visual.transformer.resblocks"
    given: Mapping[str, Any] = {}
    tail = frozenset(
        f"visual.{name}" for name in ("ln_post", "proj", "attn_pool", "attn_pool_contrastive")
    )

    def __init__(self, visual: Any, dim: int) -> None:
        super().__init__()
        self.visual = visual
        self.num_features, self.embed_dim = dim, int(visual.transformer.width)
        self.patches = int(visual.grid_size[0] * visual.grid_size[1])
        self.patch_size = int(visual.patch_size[0])

    @property
    def blocks(self) -> nn.ModuleList:
        """See `split.Cuttable`."""
        held: nn.ModuleList = self.visual.transformer.resblocks
        return held

    def enter(self, image: Tensor) -> Tensor:
        """See `split.Cuttable`."""
        tokens: Tensor = self.visual._embeds(image)
        return tokens

    def leave(self, hidden: Tensor) -> Tensor:
        """See `split.Cuttable`."""
        return hidden

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the tokens `(batch, 1 + patches, width)` of images."""
        return split.whole(self, image)

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the pooled and projected `(batch, dim)`."""
        pooled: Tensor = self.visual._pool(features)[0]
        projection = self.visual.proj
        return pooled if projection is None else pooled @ projection

    def no_weight_decay(self) -> set[str]:
        """Return the tensors that are never decayed: positions and the class token."""
        return {f"visual.{name}" for name in self.visual.no_weight_decay()}


class Whole(nn.Module):
    """Any other image tower of open_clip (ResNets, timm's), which is not cut.

    Attributes:
        visual: open_clip's module.
        num_features: Length of an embedding, that of the joint space.
        patches: Tokens of the image; 0 for a CNN.
    """

    def __init__(self, visual: nn.Module, dim: int) -> None:
        super().__init__()
        self.visual = visual
        self.num_features = dim
        embed = getattr(getattr(visual, "trunk", None), "patch_embed", None)
        self.patches = int(getattr(embed, "num_patches", 0))

    def forward_features(self, image: Tensor) -> Tensor:
        """Return the embedding `(batch, dim)` of images."""
        found: Tensor = self.visual(image)
        return found

    def forward_head(self, features: Tensor, pre_logits: bool = True) -> Tensor:
        """Return the embedding as it is."""
        return features

    def no_weight_decay(self) -> set[str]:
        """Return the tensors that open_clip's module exempts from decay."""
        named = getattr(getattr(self.visual, "trunk", self.visual), "no_weight_decay", None)
        start = "visual.trunk" if hasattr(self.visual, "trunk") else "visual"
        return {f"{start}.{name}" for name in (named() if callable(named) else ())}


def read(text: Any, tokens: Tensor) -> Tensor:
    """Return `(texts, dim)`; every text is filled up to the tower's length, as it was trained."""
    numbers, _ = attended(tokens, text.pad_id)
    room = text.context_length - numbers.shape[1]
    found: Tensor = text(functional.pad(numbers, (0, room), value=text.pad_id))
    return found


def config_of(spec: ModelSpec, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return open_clip's configuration of a model: the given one, or that of its architecture.

    Raises:
        ModelError: open_clip is missing or does not know the architecture, or its text tower
            comes from elsewhere.
    """
    open_clip = _package(spec)
    found = given or open_clip.get_model_config(spec.architecture)
    if found is None:
        names = open_clip.list_models()
        raise ModelError(
            "open_clip has no such architecture",
            where=f"model '{spec.name}' (architecture)",
            found=spec.architecture,
            todo=did_you_mean(spec.architecture, names)
            or "see open_clip.list_models() for all names",
        )
    if "multimodal_cfg" in found or found["text_cfg"].get("hf_model_name"):
        raise ModelError(
            "this architecture of open_clip has a text tower of another kind",
            where=f"model '{spec.name}' (architecture)",
            found=spec.architecture,
            allowed="those with open_clip's own text transformer",
            todo="for a BERT declare both towers: loader: two_towers with a rule, as biomedclip",
        )
    return {k: v for k, v in deepcopy(dict(found)).items() if k != "custom_text"}


def towers(spec: ModelSpec, config: Mapping[str, Any], side: int) -> nn.Module:
    """Return both towers for images of `side`, in the current device and random state.

    Raises:
        ModelError: open_clip refuses the configuration, or the spec's channels.
    """
    open_clip = _package(spec)
    if spec.channels != 3:
        raise ModelError(
            "open_clip's image towers take three channels",
            where=f"model '{spec.name}' (channels)",
            found=spec.channels,
            allowed="3",
        )
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    resized = _of_timm(config) and side != _native(config)
    sized = {**config, "vision_cfg": vision if resized else {**vision, "image_size": side}}
    try:
        model = open_clip.CustomTextCLIP(**sized)
        if resized:
            model.visual.set_input_size(side)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ModelError(
            "open_clip refuses the configuration of the model",
            where=f"model '{spec.name}' (loader.open_clip)",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
        ) from None
    mask = getattr(model.text, "attn_mask", None)
    if mask is not None and mask.is_meta:
        # No file holds it, and it needs no other values than its own.
        with torch.device("cpu"):
            model.text.attn_mask = model.text.build_causal_mask()
    dim = int(config["embed_dim"])
    vit = isinstance(model.visual, open_clip.transformer.VisionTransformer)
    image = Vit(model.visual, dim) if vit else Whole(model.visual, dim)
    net = Towers(image, model.text, read, dim, 1.0, bias=_number(model.logit_bias))
    net.logit_scale.data = model.logit_scale.data.reshape(())
    return net


def filled(spec: ModelSpec, config: Mapping[str, Any], side: int, file: Path) -> nn.Module:
    """Return both towers for images of `side` with the tensors of `file`.

    Raises:
        ModelError: The file does not fit, or what `towers` raises.
    """
    first = _native(config) if _of_timm(config) else side
    net = made.filled(lambda: towers(spec, config, first), spec, file, renamed, _POSITIONS)
    if first != side:
        net.image.visual.set_input_size(side)  # type: ignore[union-attr, operator]
    return net


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of open_clip, of either layout, under the names that they have here."""
    out: dict[str, Tensor] = {}
    for held, tensor in tensors.items():
        name = held.removeprefix(_PARALLEL)
        if name.startswith("visual."):
            out[f"image.{name}"] = tensor
        elif name.startswith(_TEXT):
            out[f"text.{name}"] = tensor
        elif name not in _NUMBERS:
            out[name] = tensor.reshape(()) if name.startswith("logit_") else tensor
    return out


def _of_timm(config: Mapping[str, Any]) -> bool:
    return config["vision_cfg"].get("timm_model_name") is not None


def _native(config: Mapping[str, Any]) -> int:
    size = config["vision_cfg"].get("image_size", 224)
    return int(size if isinstance(size, int) else size[0])


def _number(parameter: nn.Parameter | None) -> float | None:
    if parameter is None:
        return None
    # A tensor of the meta device has no value, and needs none.
    return 0.0 if parameter.is_meta else float(parameter.detach().reshape(()))


def _package(spec: ModelSpec) -> Any:
    try:
        import open_clip
    except ImportError:
        raise ModelError(
            f"model '{spec.name}' needs the package open_clip_torch",
            where=f"model '{spec.name}' (loader: open_clip)",
            todo="pip install 'fairtune[clip]'",
        ) from None
    return open_clip
