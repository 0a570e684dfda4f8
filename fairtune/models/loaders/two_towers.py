"""An image model and a text model that were trained apart, in one joint space."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from fairtune.config import Config
from fairtune.errors import ModelError
from fairtune.models.checkpoint_rule import CheckpointRule
from fairtune.models.registries import LOADERS
from fairtune.models.sizes import check_limit

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fairtune.models.spec import ModelSpec

Count = Annotated[int, Field(ge=1)]


class Bert(Config):
    """The sizes of a BERT, as in the model's `config.json`.

    Attributes:
        vocab_size: Token numbers.
        hidden_size: Length of a token.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads of a block.
        intermediate_size: Width of the MLPs.
        max_position_embeddings: Most tokens of a text.
        layer_norm_eps: Added to the variance.
        dropout: Share of values dropped in training, of hidden states and of attention.
        pool: `mean` of the tokens, the first one (`cls`), or the mean of the tokens of the states
            behind block 1, block 2 and the last one (`mean_1_2_last`).
        projection: To the joint space, where `dim` is given: `linear`, or `mlp`, two layers with
            a GELU between them; without biases.
    """

    vocab_size: Count
    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    intermediate_size: Count
    max_position_embeddings: Count = 512
    layer_norm_eps: Annotated[float, Field(gt=0)] = 1e-12
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    pool: Literal["mean", "cls", "mean_1_2_last"] = "mean"
    projection: Literal["linear", "mlp"] = "linear"


@LOADERS.register("two_towers")
class TwoTowers(Config):
    """The image tower of one model spec and a text tower, compared by cosine (LiT, CLIP).

    Zhai et al., "LiT: Zero-shot transfer with locked-image text tuning", CVPR 2022, train a text
    tower for an image tower that was trained alone; here either may be trained, by its mask.

    Attributes:
        image: Name of the model spec of the image tower, or the path of its YAML.
        text: The text tower.
        dim: Length of the joint space, to which each tower then has a linear projection that is
            random at first; None where both have the same length and none.
        scale: Factor of cosines before training: 1 / temperature.
        rule: What the names of a checkpoint of both towers become: those of the image model
            behind `image.`, of the BERT behind `text.`, `projection` of each, and `logit_scale`.
            Mean and standard deviation are then those of that checkpoint, and not of the image
            model's spec.
    """

    image: str
    text: Bert
    dim: Count | None = None
    scale: Annotated[float, Field(gt=0)] = 1 / 0.07
    rule: CheckpointRule | None = None

    def beside(self, folder: Path) -> TwoTowers:
        """Return the loader with the file of an image tower's spec looked up from `folder`."""
        if not self.image.endswith((".yaml", ".yml")):
            return self
        return self.model_copy(update={"image": str(folder / Path(self.image).expanduser())})

    def image_spec(self, spec: ModelSpec) -> ModelSpec:
        """Return the spec of the image tower.

        Raises:
            ModelError: It expects other images than `spec` says.
        """
        from fairtune.models.spec import load

        found = load(self.image)
        for field in ("channels",) if self.rule else ("mean", "std", "channels", "rounding"):
            if getattr(found, field) != getattr(spec, field):
                raise ModelError(
                    f"the image tower is made for another '{field}'",
                    where=f"model '{spec.name}' ({field})",
                    found=getattr(spec, field),
                    allowed=getattr(found, field),
                )
        return found

    def outline(self, spec: ModelSpec, image_size: int) -> nn.Module:
        """Return both towers without values, on the meta device."""
        import torch

        image = self.image_spec(spec)
        made = image.outline(image_size)
        with torch.device("meta"):
            return self._joined(spec, made)

    def seeded(self, spec: ModelSpec, image_size: int, seed: int) -> nn.Module:
        """Return both towers with random values; the caller's RNG is not touched."""
        import torch

        image = self.image_spec(spec)
        made = image.seeded(image_size, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._joined(spec, made)

    def filled(self, spec: ModelSpec, image_size: int | None, file: Path) -> nn.Module:
        """Return both towers with the tensors of `file`, which are named as here."""
        import tempfile

        import torch

        from fairtune.models import tensors

        state = tensors.read(file)
        image = self.image_spec(spec)
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "image.safetensors"
            plain = {n: t for n, t in of_tower(state, "image").items() if n not in _PROJECTED}
            tensors.write(plain, part)
            made = image.filled(image_size, part)
        with torch.random.fork_rng(devices=[]):
            net = self._joined(spec, made)
        rest = {n: t for n, t in state.items() if not n.startswith("image.") or _added(n)}
        missing, surplus = net.load_state_dict(rest, strict=False)
        lost = [n for n in missing if not n.startswith("image.") or _added(n)]
        if lost or surplus:
            raise ModelError(
                f"the weights do not fit model '{spec.name}'",
                found=surplus[:5] or None,
                allowed=lost[:5] or None,
            )
        return net

    def renamed(self, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Return tensors of a foreign file under the names that they have here, by the rule."""
        return dict(tensors) if self.rule is None else self.rule.applied(tensors, where)

    def _joined(self, spec: ModelSpec, image: Any) -> nn.Module:
        from functools import partial

        from fairtune.models.bert import POOLS, read, tower
        from fairtune.models.towers import Towers, project

        check_limit(spec, self.text.max_position_embeddings)
        text, dims = tower(self.text), (int(image.num_features), self.text.hidden_size)
        if self.dim is None and dims[0] != dims[1]:
            raise ModelError(
                "the towers give embeddings of different lengths",
                where=f"model '{spec.name}' (loader.two_towers.dim)",
                found={"image": dims[0], "text": dims[1]},
                todo="give dim: each tower then has a projection to it, which must be trained",
            )
        if self.dim is not None:
            project(image, dims[0], self.dim)
            project(text, dims[1], self.dim, through=self._through())
        pool = partial(read, pool=POOLS[self.text.pool])
        return Towers(image, text, pool, self.dim or dims[0], self.scale)

    def _through(self) -> int | None:
        # open_clip's width of the layer between: half-way from the one to the other.
        both = self.text.hidden_size + (self.dim or 0)
        return both // 2 if self.text.projection == "mlp" else None


_PROJECTED = ("projection.weight",)


def _added(name: str) -> bool:
    """Tell whether a tensor of the image tower is its projection, which its spec knows not of."""
    return name.split(".", 1)[-1] in _PROJECTED


def of_tower(state: dict[str, Tensor], tower: str) -> dict[str, Tensor]:
    """Return the tensors of one tower under the names that they have in it."""
    start = f"{tower}."
    return {name.removeprefix(start): t for name, t in state.items() if name.startswith(start)}
