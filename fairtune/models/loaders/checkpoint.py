"""An architecture of timm with the user's own weights file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fairtune.config import Config
from fairtune.models.checkpoint_rule import CheckpointRule
from fairtune.models.registries import LOADERS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fairtune.models.spec import ModelSpec


@LOADERS.register("checkpoint")
class Checkpoint(Config):
    """A network that `timm.create_model` knows by name, with weights from `file`.

    Attributes:
        file: Safetensors, or a file that `torch.load(weights_only=True)` accepts; a relative
            path is read from the folder of the spec. None leaves it to the spec's sources, or to
            `fairtune models pull NAME --from FILE`.
        rule: What the names of a foreign file become; None where they are timm's, or such that
            timm can rename them.
    """

    file: Path | None = None
    rule: CheckpointRule | None = None

    @property
    def checkpoint(self) -> Path | None:
        """The user's file."""
        return self.file

    def beside(self, folder: Path) -> Checkpoint:
        """Return the loader with its file looked up from `folder`."""
        if self.file is None:
            return self
        return self.model_copy(update={"file": folder / self.file.expanduser()})

    def outline(self, spec: ModelSpec, image_size: int) -> nn.Module:
        """See `network.outline`."""
        from fairtune.models import network

        return network.outline(spec, image_size)

    def seeded(self, spec: ModelSpec, image_size: int, seed: int) -> nn.Module:
        """See `network.seeded`."""
        from fairtune.models import network

        return network.seeded(spec, image_size, seed)

    def filled(self, spec: ModelSpec, image_size: int | None, file: Path) -> nn.Module:
        """See `network.filled`."""
        from fairtune.models import network

        return network.filled(spec, image_size, file)

    def renamed(self, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
        """Return tensors of the file under timm's names, by the rule."""
        return dict(tensors) if self.rule is None else self.rule.applied(tensors, where)
